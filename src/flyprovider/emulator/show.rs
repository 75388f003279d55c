//! Serializes machines to Fly's JSON.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::ids::private_ip;
use super::world::EmulatedMachine;
use crate::flyprovider::HostStatus;
use crate::hex::hex;

/// The machine as JSON, optionally with the holder of its lease.
pub(crate) fn machine(entry: &EmulatedMachine, with_lease: bool) -> Value {
    let machine = &entry.machine;
    let image = machine.config.as_ref().map_or("", |config| &config.image);
    let mut shown = json!({
        "id": machine.id,
        "name": machine.name,
        "state": machine.state,
        "region": machine.region,
        "image_ref": image_ref(image),
        "instance_id": machine.instance_id,
        "version": machine.instance_id,
        "private_ip": private_ip(&machine.id.0),
        "created_at": machine.created_at,
        "updated_at": machine.updated_at,
        "events": machine.events,
        "checks": [],
        "cordoned": false,
    });
    if entry.host_lost {
        shown["host_status"] = json!(HostStatus::Unreachable);
        // The data that Fly's database has without the host.
        shown["incomplete_config"] = json!({
            "image": image,
            "metadata": entry.config.get("metadata").cloned().unwrap_or_else(|| json!({})),
        });
    } else {
        shown["host_status"] = json!(HostStatus::Ok);
        shown["config"] = entry.config.clone();
    }
    if let Some(lease) = entry.lease.as_ref().filter(|_| with_lease) {
        shown["lease"] = lease.stripped();
    }
    shown
}

/// The JSON without the fields that a summary omits.
pub(crate) fn summary(mut machine: Value) -> Value {
    if let Some(fields) = machine.as_object_mut() {
        let left_out = ["config", "incomplete_config", "checks", "events", "host_status", "nonce", "lease"];
        fields.retain(|name, _| !left_out.contains(&name.as_str()));
    }
    machine
}

/// The parts of an image's name, as Docker parses it.
fn image_ref(image: &str) -> Value {
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let (registry, repository) = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest.to_owned()),
        Some(_) => ("registry-1.docker.io", path.to_owned()),
        None => ("registry-1.docker.io", format!("library/{path}")),
    };
    let digest = match digest {
        "" => format!("sha256:{}", hex(&Sha256::digest(image.as_bytes()))),
        digest => digest.to_owned(),
    };
    json!({ "registry": registry, "repository": repository, "tag": tag, "digest": digest, "labels": {} })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_reference_is_split_into_its_parts() {
        let parts = |image: &str| {
            let shown = image_ref(image);
            let text = |name: &str| shown[name].as_str().unwrap().to_owned();
            (text("registry"), text("repository"), text("tag"))
        };
        let all = |registry: &str, repository: &str, tag: &str| {
            (registry.to_owned(), repository.to_owned(), tag.to_owned())
        };
        assert_eq!(parts("registry.fly.io/clips:v1"), all("registry.fly.io", "clips", "v1"));
        assert_eq!(parts("ubuntu"), all("registry-1.docker.io", "library/ubuntu", "latest"));
        assert_eq!(parts("flyio/hello:1"), all("registry-1.docker.io", "flyio/hello", "1"));
        assert_eq!(parts("localhost:5000/a/b"), all("localhost:5000", "a/b", "latest"));
        assert_eq!(image_ref("a@sha256:00")["digest"], "sha256:00");
        assert_eq!(image_ref("a")["digest"].as_str().unwrap().len(), 71);
    }
}
