"""The model repository: folders and configurations of models, how a model is loaded and warmed up, which are served.

Inferences are backend.inference's; calls that ask of models are backend.service's.
"""
