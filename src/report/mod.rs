//! HTML with inline SVG, tables for the terminal, CSV.
