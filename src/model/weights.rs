//! Weight files: canonical form, import, checks.
