"""Everything that goes over the wire: key names, message formats, Redis scripts. One package owns it."""
