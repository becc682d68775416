"""The ONNX model server: gRPC, the Open Inference Protocol, ONNX Runtime. Of `lb` it imports only `lb.wire`."""
