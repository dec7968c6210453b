//! Integration tests of one base.

mod process;
