"""The kill campaign: what is killed, stopped and cut off, while goals with effects go on."""
