//! The streams of one `pods/exec`. Comes with the next commits.
