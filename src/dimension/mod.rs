//! Estimators of the intrinsic dimension over neighbour distances, and their uncertainty.
