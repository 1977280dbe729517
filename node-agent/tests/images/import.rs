//! Importing from files.

use std::path::PathBuf;

use kontiki_node_agent::image::import::{ImportError, import};
use kontiki_node_agent::image::reference::Reference;
use kontiki_node_agent::image::store::ImageStore;
use kontiki_node_agent::image::{Image, Origin};
use serde_json::{Value, json};

use crate::artifacts::{
    Artifact, INDEX, Layer, MANIFEST, arch, descriptor, digest, docker_archive, gzip, index, layout, tar,
    write_directory, write_tar, zstd,
};

struct Bench {
    store: ImageStore,
    dir: tempfile::TempDir,
}

type Files = Vec<(String, Vec<u8>)>;

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    Bench { store: ImageStore::open(&dir.path().join("store")).unwrap(), dir }
}

impl Bench {
    fn file(&self, files: &Files) -> PathBuf {
        let path = self.dir.path().join("image.tar");
        write_tar(&path, files);
        path
    }

    fn import(&self, files: &Files, name: Option<&str>) -> Result<Vec<Image>, ImportError> {
        import(&self.store, &self.file(files), name)
    }

    fn find(&self, name: &str) -> Option<Image> {
        self.store.find(&Reference::parse(name).unwrap()).unwrap()
    }

    fn assert_nothing_kept(&self) {
        assert!(self.store.list().unwrap().is_empty());
        for part in ["staging", "layers"] {
            let left = std::fs::read_dir(self.dir.path().join("store").join(part)).unwrap().count();
            assert_eq!(left, 0, "{part}");
        }
    }
}

fn annotated(media_type: &str, bytes: &[u8], key: &str, name: &str) -> Value {
    let mut descriptor = descriptor(media_type, bytes);
    descriptor["annotations"] = json!({key: name});
    descriptor
}

const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn artifact() -> Artifact {
    Artifact::new(&[Layer::new(&[("one", b"1")], gzip), Layer::new(&[("two", b"2")], zstd)])
}

#[test]
fn a_layout_is_imported_as_directory_and_as_tar() {
    let artifact = artifact();
    let files =
        layout(&artifact.blobs(), &[annotated(MANIFEST, &artifact.manifest, CONTAINERD_NAME, "example.org/app:1")]);
    for as_directory in [true, false] {
        let bench = bench();
        let images = if as_directory {
            let path = bench.dir.path().join("layout");
            write_directory(&path, &files);
            import(&bench.store, &path, None).unwrap()
        } else {
            bench.import(&files, None).unwrap()
        };
        let found = bench.find("example.org/app:1").unwrap();
        assert_eq!(images, std::slice::from_ref(&found));
        assert_eq!((found.id, found.origin), (artifact.id(), Origin::Imported));
        assert_eq!(found.repo_digests, [format!("example.org/app@{}", artifact.digest())]);
        assert_eq!(std::fs::read(found.layers[0].join("one")).unwrap(), b"1");
        assert_eq!(std::fs::read(found.layers[1].join("two")).unwrap(), b"2");
        assert!(bench.find(&format!("example.org/app@{}", artifact.digest())).is_some());
    }
}

#[test]
fn a_name_is_taken_from_the_caller_or_from_the_file() {
    let artifact = artifact();
    let with = |key: &str, name: &str| layout(&artifact.blobs(), &[annotated(MANIFEST, &artifact.manifest, key, name)]);
    let bench = bench();
    bench.import(&with(REF_NAME, "debian:12"), None).unwrap();
    assert!(bench.find("docker.io/library/debian:12").is_some());
    bench.import(&with(REF_NAME, "ignored:1"), Some("mine")).unwrap();
    assert!(bench.find("mine").is_some() && bench.find("ignored:1").is_none());
    // A bare tag is no name.
    let error = bench.import(&with(REF_NAME, "latest"), None).unwrap_err();
    assert!(error.to_string().contains("has no name"), "{error}");
    let error = bench.import(&with(REF_NAME, "a:1"), Some(&format!("a@{}", artifact.digest()))).unwrap_err();
    assert!(matches!(error, ImportError::Name { .. }), "{error}");
    let error = bench.import(&with(REF_NAME, "a:1"), Some("Not A Name")).unwrap_err();
    assert!(matches!(error, ImportError::Name { .. }), "{error}");
}

#[test]
fn of_several_platforms_the_one_of_this_machine_is_imported() {
    let (ours, foreign) = (Artifact::one_file("file", b"ours"), Artifact::one_file("file", b"foreign"));
    let nested = index(&[("s390x", &foreign), (arch(), &ours)]);
    // The foreign blobs are left out, as tools do that copy one platform.
    let mut blobs = ours.blobs();
    blobs.push(nested.clone());
    let with_index = layout(&blobs, &[annotated(INDEX, &nested, CONTAINERD_NAME, "app:1")]);
    let mut side_by_side = [descriptor(MANIFEST, &foreign.manifest), descriptor(MANIFEST, &ours.manifest)];
    side_by_side[0]["platform"] = json!({"os": "linux", "architecture": "s390x"});
    side_by_side[1]["platform"] = json!({"os": "linux", "architecture": arch()});
    for files in [with_index, layout(&ours.blobs(), &side_by_side)] {
        let bench = bench();
        let images = bench.import(&files, Some("app:1")).unwrap();
        assert_eq!(std::fs::read(images[0].layers[0].join("file")).unwrap(), b"ours");
        assert_eq!((images.len(), bench.find("app:1").unwrap().id), (1, ours.id()));
    }
    let bench = bench();
    let error = bench.import(&layout(&[], &side_by_side[..1]), Some("app:1")).unwrap_err();
    assert!(error.to_string().contains("no image for linux/"), "{error}");
}

#[test]
fn several_images_keep_their_own_names() {
    let (one, two) = (Artifact::one_file("file", b"1"), Artifact::one_file("file", b"2"));
    let mut blobs = one.blobs();
    blobs.extend(two.blobs());
    let root = [
        annotated(MANIFEST, &one.manifest, CONTAINERD_NAME, "example.org/one:1"),
        annotated(MANIFEST, &two.manifest, CONTAINERD_NAME, "example.org/two:1"),
    ];
    let bench = bench();
    let error = bench.import(&layout(&blobs, &root), Some("both:1")).unwrap_err();
    assert!(error.to_string().contains("several images"), "{error}");
    assert_eq!(bench.import(&layout(&blobs, &root), None).unwrap().len(), 2);
    assert_eq!(bench.find("example.org/one:1").unwrap().id, one.id());
    assert_eq!(bench.find("example.org/two:1").unwrap().id, two.id());
}

#[test]
fn a_docker_archive_is_imported_under_its_tags() {
    let artifact = artifact();
    let bench = bench();
    bench.import(&docker_archive(&artifact, &["app:1", "example.org/app:stable"]), None).unwrap();
    let found = bench.find("app:1").unwrap();
    assert_eq!((&found.id, found.layers.len()), (&artifact.id(), 2));
    assert_eq!(found.repo_tags, ["docker.io/library/app:1", "example.org/app:stable"]);
    assert_eq!(std::fs::read(found.layers[1].join("two")).unwrap(), b"2");
    let error = bench.import(&docker_archive(&artifact, &[]), None).unwrap_err();
    assert!(error.to_string().contains("has no name"), "{error}");
    bench.import(&docker_archive(&artifact, &[]), Some("named:1")).unwrap();
    assert_eq!(bench.find("named:1").unwrap().id, artifact.id());
}

#[test]
fn a_root_filesystem_becomes_an_image_of_one_layer() {
    let bench = bench();
    let plain = tar(&[("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), ("bin/sh", b"#!")]);
    let mut ids = Vec::new();
    for bytes in [plain.clone(), gzip(&plain), zstd(&plain)] {
        let path = bench.dir.path().join("rootfs.tar");
        std::fs::write(&path, bytes).unwrap();
        let images = import(&bench.store, &path, Some("rootfs:1")).unwrap();
        assert_eq!(images[0].layers.len(), 1);
        assert!(images[0].layers[0].join("etc/passwd").is_file());
        ids.push(images[0].id.clone());
        let error = import(&bench.store, &path, None).unwrap_err();
        assert!(error.to_string().contains("needs a name"), "{error}");
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "the same content is the same image");
    assert_eq!(bench.store.list().unwrap().len(), 1);
}

#[test]
fn damaged_files_are_refused_and_leave_nothing() {
    let artifact = artifact();
    let whole =
        || layout(&artifact.blobs(), &[annotated(MANIFEST, &artifact.manifest, CONTAINERD_NAME, "example.org/app:1")]);
    for broken in [artifact.digest(), artifact.id(), digest(&artifact.layers[0].blob)] {
        let mut files = whole();
        let blob = files.iter_mut().find(|(name, _)| name.ends_with(&broken[7..])).unwrap();
        let middle = blob.1.len() / 2;
        blob.1[middle] ^= 1;
        let bench = bench();
        bench.import(&files, None).unwrap_err();
        bench.assert_nothing_kept();
        let mut files = whole();
        files.retain(|(name, _)| !name.ends_with(&broken[7..]));
        bench.import(&files, None).unwrap_err();
        bench.assert_nothing_kept();
    }
    let mut files = docker_archive(&artifact, &["app:1"]);
    files[0].1.push(b' ');
    let bench = bench();
    let error = bench.import(&files, None).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    let mut files = docker_archive(&artifact, &["app:1"]);
    files[1].1 = gzip(&tar(&[("one", b"other")]));
    let error = bench.import(&files, None).unwrap_err();
    assert!(error.to_string().contains("layer digest mismatch"), "{error}");
    bench.assert_nothing_kept();
}

#[test]
fn what_is_no_image_is_refused() {
    let bench = bench();
    let path = bench.dir.path().join("file");
    for (bytes, text) in [
        (b"some words".to_vec(), "read entire block"),
        (Vec::new(), "empty"),
        (tar(&[]), "empty"),
        (b"\xfd7zXZ\0".to_vec(), "gzip and zstd"),
        (gzip(&tar(&[("etc/passwd", &[1; 5000])]))[..40].to_vec(), ""),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let error = import(&bench.store, &path, Some("a:1")).unwrap_err();
        assert!(error.to_string().contains(text) && error.to_string().contains("file"), "{text}: {error}");
    }
    import(&bench.store, &bench.dir.path().join("absent"), Some("a:1")).unwrap_err();
    let escape = json!([{"Config": "../../etc/passwd", "RepoTags": ["a:1"], "Layers": []}]);
    let files = vec![("manifest.json".to_owned(), serde_json::to_vec(&escape).unwrap())];
    let error = bench.import(&files, None).unwrap_err();
    assert!(error.to_string().contains("leads out of the archive"), "{error}");
    bench.assert_nothing_kept();
}
