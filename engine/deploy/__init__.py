from .subject import Normalise, Subject
