//! What the controller may do in a cluster is what the manifests say, and it needs all of it; one of
//! several acts.
