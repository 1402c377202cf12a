//! Medians, percentiles, trimmed means and Student t.
