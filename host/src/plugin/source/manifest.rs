//! What a registry's manifest says: which layer is the component.
//!
//! Source: OCI image specification 1.1, "Image Manifest" and "Image Index"; CNCF's "Wasm OCI artifact
//! layout" for the media types, and the older one that `wasm-to-oci` began.

use serde::Deserialize;

/// Layers that are components.
const COMPONENTS: [&str; 2] = [
    "application/wasm",
    "application/vnd.wasm.content.layer.v1+wasm",
];

/// What a manifest leads to.
pub(super) enum Content {
    /// A component of this hash and size.
    Component { sha256: String, size: u64 },
    /// Another manifest of this hash.
    Manifest(String),
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
}

impl Descriptor {
    fn sha256(&self) -> Result<String, String> {
        let digits = self.digest.strip_prefix("sha256:").unwrap_or_default();
        match digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            true => Ok(digits.to_ascii_lowercase()),
            false => Err(format!(
                "its manifest has the digest {:?}, expected sha256 and 64 hex digits",
                self.digest
            )),
        }
    }
}

/// Reads a manifest or an index of one.
pub(super) fn content(bytes: &[u8]) -> Result<Content, String> {
    let manifest: Manifest = serde_json::from_slice(bytes)
        .map_err(|error| format!("its manifest is not one of an artifact ({error})"))?;
    if let Some(manifests) = manifest.manifests {
        return match manifests.as_slice() {
            [one] => one.sha256().map(Content::Manifest),
            many => Err(format!(
                "it is an index of {} artifacts, expected one; name the one that is meant by its \
                 digest, @sha256:…",
                many.len()
            )),
        };
    }
    let layers = manifest.layers.unwrap_or_default();
    let is_component = |layer: &&Descriptor| COMPONENTS.contains(&layer.media_type.as_str());
    let components: Vec<_> = layers.iter().filter(is_component).collect();
    match components.as_slice() {
        [one] => Ok(Content::Component {
            sha256: one.sha256()?,
            size: one.size,
        }),
        [] => {
            let found: Vec<_> = layers.iter().map(|l| l.media_type.as_str()).collect();
            Err(format!(
                "it holds no component: its layers are [{}], expected one {}",
                found.join(", "),
                COMPONENTS.join(" or ")
            ))
        }
        many => Err(format!("it holds {} components, expected one", many.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> String {
        match content(json.to_string().as_bytes()) {
            Ok(Content::Component { sha256, size }) => format!("component {sha256:.4} of {size}"),
            Ok(Content::Manifest(sha256)) => format!("manifest {sha256:.4}"),
            Err(reason) => reason,
        }
    }

    #[test]
    fn manifests_of_both_layouts_lead_to_their_component() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for media_type in COMPONENTS {
            let readme = serde_json::json!({"mediaType": "text/markdown", "digest": digest});
            let layer = serde_json::json!({"mediaType": media_type, "digest": digest, "size": 7});
            let manifest = serde_json::json!({"schemaVersion": 2, "layers": [readme, layer]});
            assert_eq!(read(manifest), "component abab of 7");
        }
        let one = serde_json::json!({"digest": digest, "size": 1});
        assert_eq!(
            read(serde_json::json!({"manifests": [one]})),
            "manifest abab"
        );
        let told = read(serde_json::json!({"manifests": [one, one]}));
        assert!(
            told.contains("an index of 2 artifacts, expected one"),
            "{told}"
        );
    }

    #[test]
    fn a_container_image_is_no_plugin() {
        let layer = serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{}", "ab".repeat(32))});
        let told = read(serde_json::json!({"layers": [layer]}));
        assert!(
            told.contains("it holds no component: its layers are [application/vnd.oci"),
            "{told}"
        );
        let layer = serde_json::json!({"mediaType": "application/wasm", "digest": "md5:12"});
        let told = read(serde_json::json!({"layers": [layer]}));
        assert!(
            told.contains("the digest \"md5:12\", expected sha256"),
            "{told}"
        );
    }
}
