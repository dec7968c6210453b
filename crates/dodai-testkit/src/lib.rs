//! Tests' own parts: in-process clusters, fake peers, fault plans.
