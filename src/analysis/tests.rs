//! Records made by code, and what follows from them.
