//! The activations of every layer over a data set: the extraction pipeline and the store on disk.
