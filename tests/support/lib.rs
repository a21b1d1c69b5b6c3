//! What tests of several tools share.
