//! Endpoints in this process.
