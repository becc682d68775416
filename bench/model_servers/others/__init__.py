"""Other model servers that PyPI has (Triton of nvidia-pytriton, MLServer, KServe): their installation, and how each
serves a folder of ONNX models. Scripts that run inside their environments lie beside; those import nothing of Tidegate.
"""
