//! Images made on the spot: layers, configurations, manifests, and the files they travel in.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// The tar of some files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

/// A layer as it travels, and the digest of what is inside.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: String,
}

impl Layer {
    pub(crate) fn new(files: &[(&str, &[u8])], compress: fn(&[u8]) -> Vec<u8>) -> Self {
        let plain = tar(files);
        Self { blob: compress(&plain), diff_id: digest(&plain) }
    }
}

/// One image for one platform, as a registry and a layout hold it.
pub(crate) struct Artifact {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

impl Artifact {
    pub(crate) fn new(layers: &[Layer]) -> Self {
        let diff_ids: Vec<&String> = layers.iter().map(|layer| &layer.diff_id).collect();
        // As Docker writes it, with nulls for what is not set.
        let config = json!({
            "architecture": arch(), "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {
                "Env": ["PATH=/bin", "MODE=test"], "Entrypoint": ["/bin/app"], "Cmd": null, "WorkingDir": "/work",
                "User": "7:8", "Volumes": {"/data": {}}, "ExposedPorts": null, "Labels": null, "OnBuild": null,
                "Hostname": "", "StopSignal": "SIGINT"
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "test", "empty_layer": true}]
        });
        let config = serde_json::to_vec(&config).unwrap();
        let descriptors: Vec<Value> =
            layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.blob)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config)
        });
        Self { layers: layers.to_vec(), config, manifest: serde_json::to_vec(&manifest).unwrap() }
    }

    pub(crate) fn one_file(name: &str, data: &[u8]) -> Self {
        Self::new(&[Layer::new(&[(name, data)], gzip)])
    }

    pub(crate) fn id(&self) -> String {
        digest(&self.config)
    }

    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// Every blob by its content, manifests too.
    pub(crate) fn blobs(&self) -> Vec<Vec<u8>> {
        let mut blobs: Vec<Vec<u8>> = self.layers.iter().map(|layer| layer.blob.clone()).collect();
        blobs.extend([self.config.clone(), self.manifest.clone()]);
        blobs
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// This machine's architecture in OCI's words.
pub(crate) fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An index of the images of several architectures.
pub(crate) fn index(images: &[(&str, &Artifact)]) -> Vec<u8> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(architecture, image)| {
            let mut descriptor = descriptor(MANIFEST, &image.manifest);
            descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
            descriptor
        })
        .collect();
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})).unwrap()
}

/// The files of an OCI layout; `root` are the descriptors of its `index.json`.
pub(crate) fn layout(blobs: &[Vec<u8>], root: &[Value]) -> Vec<(String, Vec<u8>)> {
    let index = json!({"schemaVersion": 2, "manifests": root});
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), serde_json::to_vec(&index).unwrap()),
    ];
    files.extend(blobs.iter().map(|blob| (format!("blobs/sha256/{}", &digest(blob)[7..]), blob.clone())));
    files
}

/// The files of `docker save`.
pub(crate) fn docker_archive(image: &Artifact, tags: &[&str]) -> Vec<(String, Vec<u8>)> {
    let config = format!("{}.json", &image.id()[7..]);
    let name = |number: usize| format!("layer{number}/layer.tar");
    let layers: Vec<String> = (0..image.layers.len()).map(name).collect();
    let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]);
    let mut files = vec![(config, image.config.clone())];
    files.extend(image.layers.iter().enumerate().map(|(number, layer)| (name(number), layer.blob.clone())));
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()));
    files
}

pub(crate) fn write_tar(path: &Path, files: &[(String, Vec<u8>)]) {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
    std::fs::write(path, tar(&files)).unwrap();
}

pub(crate) fn write_directory(path: &Path, files: &[(String, Vec<u8>)]) {
    for (name, data) in files {
        let file = path.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, data).unwrap();
    }
}
