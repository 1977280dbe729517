//! The store on disk: what survives, what two processes see of each other, what is deleted.

use std::path::Path;

use kontiki_node_agent::image::Image;
use kontiki_node_agent::image::import::import;
use kontiki_node_agent::image::reference::Reference;
use kontiki_node_agent::image::store::ImageStore;

use crate::artifacts::{Artifact, Layer, docker_archive, gzip, tar, write_tar};

fn reference(name: &str) -> Reference {
    Reference::parse(name).unwrap()
}

fn add(store: &ImageStore, artifact: &Artifact, name: &str) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    write_tar(&path, &docker_archive(artifact, &[name]));
    import(store, &path, None).unwrap().remove(0)
}

fn entries(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

#[test]
fn images_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let image = add(&ImageStore::open(dir.path()).unwrap(), &Artifact::one_file("file", b"x"), "app:1");
    let reopened = ImageStore::open(dir.path()).unwrap();
    assert_eq!(reopened.find(&reference("app:1")).unwrap(), Some(image.clone()));
    assert_eq!(reopened.list().unwrap(), [image]);
}

#[test]
fn what_one_process_changes_the_other_sees() {
    let dir = tempfile::tempdir().unwrap();
    let agent = ImageStore::open(dir.path()).unwrap();
    let command = ImageStore::open(dir.path()).unwrap();
    for round in 0..20 {
        let name = format!("app:{round}");
        assert_eq!(agent.find(&reference(&name)).unwrap(), None);
        let image = add(&command, &Artifact::one_file("file", name.as_bytes()), &name);
        assert_eq!(agent.find(&reference(&name)).unwrap(), Some(image));
    }
    assert!(command.remove(&reference("app:0")).unwrap());
    assert_eq!(agent.find(&reference("app:0")).unwrap(), None);
    assert_eq!(agent.list().unwrap().len(), 19);
}

#[test]
fn two_processes_do_not_overwrite_each_others_changes() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for process in 0..4 {
            let dir = dir.path();
            scope.spawn(move || {
                let store = ImageStore::open(dir).unwrap();
                for round in 0..5 {
                    add(&store, &Artifact::one_file("file", b"same"), &format!("app{process}:{round}"));
                }
            });
        }
    });
    let image = ImageStore::open(dir.path()).unwrap().list().unwrap().remove(0);
    assert_eq!(image.repo_tags.len(), 20);
    assert_eq!(entries(&dir.path().join("layers")), 1);
}

#[test]
fn removing_the_last_name_deletes_the_layers_that_nobody_uses() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let base = Layer::new(&[("base", b"x")], gzip);
    let with = |name: &str| Artifact::new(&[base.clone(), Layer::new(&[(name, b"y")], gzip)]);
    add(&store, &with("one"), "one:1");
    add(&store, &with("one"), "one:again");
    let two = add(&store, &with("two"), "two:1");
    assert!(store.remove(&reference("one:1")).unwrap());
    assert_eq!((store.list().unwrap().len(), entries(&dir.path().join("layers"))), (2, 3));
    assert!(store.remove(&reference("one:again")).unwrap());
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&two));
    assert_eq!(entries(&dir.path().join("layers")), 2);
    assert!(two.layers.iter().all(|layer| layer.is_dir()));
    assert!(!store.remove(&reference("one:1")).unwrap(), "it is not known any more");
    assert!(store.remove(&reference("two:1")).unwrap());
    assert_eq!((entries(&dir.path().join("layers")), entries(&dir.path().join("staging"))), (0, 0));
}

#[test]
fn a_name_moves_to_the_newer_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let old = add(&store, &Artifact::one_file("file", b"old"), "app:1");
    let new = add(&store, &Artifact::one_file("file", b"new"), "app:1");
    assert_eq!(store.find(&reference("app:1")).unwrap().unwrap().id, new.id);
    assert!(old.layers[0].is_dir(), "what runs on the old one keeps its layers");
    // Nothing can find the old one any more: it goes with the next removal.
    store.remove(&reference("absent:1")).unwrap();
    store.remove(&reference("app:1")).unwrap();
    assert!(store.list().unwrap().is_empty());
    assert_eq!(entries(&dir.path().join("layers")), 0);
}

#[test]
fn a_removal_spares_what_somebody_is_adding() {
    let dir = tempfile::tempdir().unwrap();
    let agent = ImageStore::open(dir.path()).unwrap();
    let command = ImageStore::open(dir.path()).unwrap();
    add(&command, &Artifact::one_file("file", b"x"), "app:1");
    let filling = agent.fill().unwrap();
    let layer = agent.add_layer(&tar(&[("new", b"x")])[..], None).unwrap();
    let staged = agent.unpack(&tar(&[("newer", b"x")])[..]).unwrap();
    assert!(command.remove(&reference("app:1")).unwrap());
    ImageStore::open(dir.path()).unwrap();
    assert!(agent.has_layer(&layer.diff_id));
    let newer = agent.keep(staged, None).unwrap();
    assert!(agent.has_layer(&newer.diff_id));
    drop(filling);
    command.remove(&reference("app:1")).unwrap();
    assert_eq!(entries(&dir.path().join("layers")), 0, "nobody made an image of them");
}

#[test]
fn opening_clears_what_an_interrupted_process_left() {
    let dir = tempfile::tempdir().unwrap();
    add(&ImageStore::open(dir.path()).unwrap(), &Artifact::one_file("file", b"x"), "app:1");
    let staging = dir.path().join("staging");
    std::fs::create_dir_all(staging.join("half/fs/etc")).unwrap();
    std::fs::write(staging.join("index"), "{").unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    assert_eq!(entries(&staging), 0);
    assert!(store.find(&reference("app:1")).unwrap().is_some());
}

#[test]
fn an_image_without_its_layers_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let image = add(&store, &Artifact::one_file("file", b"x"), "app:1");
    std::fs::remove_dir_all(image.layers[0].parent().unwrap()).unwrap();
    assert_eq!(store.find(&reference("app:1")).unwrap(), None, "so that it is pulled again");
}

/// Unmounts whatever the test does.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(image: &Image) -> Self {
        let target = tempfile::tempdir().unwrap();
        let layers: Vec<&str> = image.layers.iter().rev().map(|layer| layer.to_str().unwrap()).collect();
        let options = std::ffi::CString::new(format!("lowerdir={}", layers.join(":"))).unwrap();
        let flags = rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount("overlay", target.path(), "overlay", flags, options.as_c_str()).unwrap();
        Self(target)
    }

    /// Every path below the root, sorted.
    fn paths(&self) -> Vec<String> {
        let (mut found, mut left) = (Vec::new(), vec![self.0.path().to_owned()]);
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned());
                if path.is_dir() {
                    left.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn stacked_layers_show_what_the_image_means() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let lower = Layer::new(
        &[("gone", b"x"), ("kept", b"x"), ("opaque/old", b"x"), ("replaced/old", b"x"), ("merged/old", b"x")],
        gzip,
    );
    let upper = Layer::new(
        &[
            (".wh.gone", b""),
            ("opaque/.wh..wh..opq", b""),
            ("opaque/new", b"x"),
            (".wh.replaced", b""),
            ("replaced/new", b"x"),
            ("merged/new", b"x"),
        ],
        gzip,
    );
    let repeated = Layer::new(&[("top", b"x")], gzip);
    let image = add(&store, &Artifact::new(&[repeated.clone(), lower, upper, repeated]), "app:1");
    let expected =
        ["kept", "merged", "merged/new", "merged/old", "opaque", "opaque/new", "replaced", "replaced/new", "top"];
    assert_eq!(Mounted::new(&image).paths(), expected);
}
