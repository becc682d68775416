"""The control plane: the master, its workers, reload, supervision of model servers, systemd."""
