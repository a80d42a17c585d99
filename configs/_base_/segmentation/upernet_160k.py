_base_ = ["./upernet.py", "./ade20k_512x512.py", "./schedule_160k.py", "./runtime.py"]
