//! The command line: one file per command, raw arguments to checked settings to a library call.
