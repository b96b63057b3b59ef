"""Plain files on disks and object stores: storage, its backends, the run folder."""
