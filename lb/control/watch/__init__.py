"""What an operator has to know without asking: samples of the traffic, the problems found in them and in the status
document, and alerts. The admin server shows it (lb.control.admin); nothing here changes what the daemon does."""
