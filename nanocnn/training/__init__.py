"""What learns: network, loss, optimizer, one step; the schedule; the device."""
