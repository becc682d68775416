"""The scaling rules: one algorithm, one file, each a `lb.scaling.scaler.Scaler`. Processes and loops are in
`lb.control.servers`."""
