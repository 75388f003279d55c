//! Serializes machines to Fly's JSON.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::world::Entry;
use crate::flyprovider::HostStatus;

/// The machine as JSON, optionally with the holder of its lease.
pub fn machine(entry: &Entry, with_lease: bool) -> Value {
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
pub fn summary(mut machine: Value) -> Value {
    if let Some(fields) = machine.as_object_mut() {
        let left_out = ["config", "incomplete_config", "checks", "events", "host_status", "nonce", "lease"];
        fields.retain(|name, _| !left_out.contains(&name.as_str()));
    }
    machine
}

/// The address of a machine in its organization's private network, invented from its id.
pub fn private_ip(id: &str) -> String {
    let hash = Sha256::digest(id.as_bytes());
    let part = |i: usize| u16::from_be_bytes([hash[i], hash[i + 1]]);
    format!("fdaa:0:{:x}:a7b:{:x}:{:x}:{:x}:2", part(0), part(2), part(4), part(6))
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
        "" => format!("sha256:{}", base16(&Sha256::digest(image.as_bytes()))),
        digest => digest.to_owned(),
    };
    json!({ "registry": registry, "repository": repository, "tag": tag, "digest": digest, "labels": {} })
}

fn base16(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A new ULID, which is Fly's format of ids of versions and events. Later ones are greater.
pub fn ulid() -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    // A UUID of version 7 begins with the time, too.
    let bits = Uuid::now_v7().as_u128();
    let digit = |place: u32| usize::try_from(bits >> (5 * place) & 31).unwrap_or(0);
    (0..26).rev().map(|place| char::from(ALPHABET[digit(place)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_by_their_parts() {
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

    #[test]
    fn ulids_have_26_places_and_grow() {
        let ids: Vec<String> = (0..100).map(|_| ulid()).collect();
        assert!(ids.iter().all(|id| id.len() == 26));
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }
}
