"""HTTP/1.1 on the server's side: the Open Inference Protocol's REST half."""
