//! Pulling from a registry.

use std::path::{Path, PathBuf};

use kontiki_node_agent::image::pull::PullingStore;
use kontiki_node_agent::image::{Credential, Image, Images, Origin, PullError};

use crate::artifacts::{Artifact, Layer, arch, digest, gzip, index, zstd};
use crate::registry::{Access, Fault, Registry};

struct Bench {
    registry: Registry,
    store: PullingStore,
    dir: tempfile::TempDir,
}

async fn bench(access: Access) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    Bench { registry: Registry::start(access).await, store: PullingStore::open(dir.path()).unwrap(), dir }
}

impl Bench {
    async fn pull(&self, name: &str) -> Result<Image, PullError> {
        self.store.pull(&self.registry.name(name), &[]).await
    }

    /// Nothing is known and nothing lies around; `layers` are there.
    async fn assert_nothing_kept(&self, layers: usize) {
        assert!(self.store.list().await.is_empty(), "no image is known");
        assert_eq!(entries(&self.dir.path().join("staging")), 0, "staging is empty");
        assert_eq!(entries(&self.dir.path().join("layers")), layers, "layers kept");
    }
}

fn entries(path: &Path) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

fn read(layers: &[PathBuf], at: usize, name: &str) -> Vec<u8> {
    std::fs::read(layers[at].join(name)).unwrap()
}

#[tokio::test]
async fn a_tag_is_pulled_with_its_configuration_and_layers_in_order() {
    let bench = bench(Access::Open).await;
    let lower = Layer::new(&[("bin/app", b"one")], gzip);
    let upper = Layer::new(&[("etc/motd", b"two")], zstd);
    let artifact = Artifact::new(&[lower, upper]);
    bench.registry.push("app:1", &artifact);
    let image = bench.pull("app:1").await.unwrap();
    assert_eq!(image.id, artifact.id());
    assert_eq!(image.repo_tags, [bench.registry.name("app:1")]);
    assert_eq!(image.repo_digests, [format!("{}@{}", bench.registry.name("app"), artifact.digest())]);
    assert_eq!(read(&image.layers, 0, "bin/app"), b"one");
    assert_eq!(read(&image.layers, 1, "etc/motd"), b"two");
    assert_eq!(image.origin, Origin::Pulled);
    assert_eq!(image.config.env, ["PATH=/bin", "MODE=test"]);
    assert_eq!((image.config.entrypoint, image.config.cmd), (vec!["/bin/app".to_owned()], vec![]));
    assert_eq!((image.config.working_dir.as_str(), image.config.user.as_str()), ("/work", "7:8"));
    assert_eq!((image.config.stop_signal.as_deref(), image.config.volumes), (Some("SIGINT"), vec!["/data".to_owned()]));
    assert_eq!(image.size_bytes, artifact.layers.iter().map(|layer| layer.blob.len() as u64).sum::<u64>());
    assert_eq!(bench.store.resolve(&bench.registry.name("app:1")).await.unwrap().id, image.id);
    assert_eq!(bench.store.resolve(&bench.registry.name("app:2")).await, None);
}

#[tokio::test]
async fn a_digest_is_pulled_and_found_again() {
    let bench = bench(Access::Open).await;
    let artifact = Artifact::one_file("file", b"x");
    bench.registry.push("app:1", &artifact);
    let by_digest = format!("app@{}", artifact.digest());
    let image = bench.pull(&by_digest).await.unwrap();
    assert!(image.repo_tags.is_empty());
    assert_eq!(bench.store.resolve(&bench.registry.name(&by_digest)).await.unwrap().id, image.id);
    // A tag beside a digest is decoration: the registry was not asked for it.
    bench.pull(&format!("app:old@{}", artifact.digest())).await.unwrap();
    assert_eq!(bench.store.resolve(&bench.registry.name("app:old")).await, None);
}

#[tokio::test]
async fn an_index_leads_to_the_image_of_this_machine() {
    let bench = bench(Access::Open).await;
    let ours = Artifact::one_file("file", b"ours");
    let foreign = Artifact::one_file("file", b"foreign");
    bench.registry.push_blobs(&ours);
    bench.registry.push_blobs(&foreign);
    let both = index(&[("s390x", &foreign), (arch(), &ours)]);
    bench.registry.tag("app:1", &both);
    bench.registry.tag("app:foreign", &index(&[("s390x", &foreign)]));
    let image = bench.pull("app:1").await.unwrap();
    assert_eq!(read(&image.layers, 0, "file"), b"ours");
    assert_eq!(image.repo_digests, [format!("{}@{}", bench.registry.name("app"), digest(&both))]);
    let error = bench.pull("app:foreign").await.unwrap_err();
    assert!(matches!(&error, PullError::Refused(text) if text.contains("no match for platform")), "{error:?}");
}

#[tokio::test]
async fn a_layer_of_two_images_is_fetched_and_unpacked_once() {
    let bench = bench(Access::Open).await;
    let base = Layer::new(&[("base", b"x")], gzip);
    let base_blob = digest(&base.blob);
    let image = |name: &str| Artifact::new(&[base.clone(), Layer::new(&[(name, b"y")], gzip)]);
    bench.registry.push("one:1", &image("one"));
    bench.registry.push("two:1", &image("two"));
    let (one, two) = tokio::join!(bench.pull("one:1"), bench.pull("two:1"));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.layers[0], two.layers[0]);
    assert_ne!(one.layers[1], two.layers[1]);
    assert_eq!(bench.registry.served(&base_blob), 1);
    assert_eq!(entries(&bench.dir.path().join("layers")), 3);
}

#[tokio::test]
async fn a_layer_that_an_image_repeats_is_stacked_once() {
    let bench = bench(Access::Open).await;
    let (empty, file) = (Layer::new(&[], gzip), Layer::new(&[("file", b"x")], gzip));
    bench.registry.push("app:1", &Artifact::new(&[empty.clone(), file, empty.clone()]));
    let image = bench.pull("app:1").await.unwrap();
    assert_eq!(image.layers.len(), 2, "overlayfs refuses a directory twice");
    assert_eq!(read(&image.layers, 0, "file"), b"x");
    assert_eq!(bench.registry.served(&digest(&empty.blob)), 1);
}

#[tokio::test]
async fn concurrent_pulls_of_one_reference_fetch_once() {
    let bench = bench(Access::Open).await;
    let artifact = Artifact::one_file("file", b"x");
    bench.registry.push("app:1", &artifact);
    let pulled = futures::future::join_all((0..8).map(|_| bench.pull("app:1"))).await;
    assert!(pulled.iter().all(|image| image.as_ref().unwrap().id == artifact.id()));
    for key in ["team/app:1".to_owned(), artifact.id(), digest(&artifact.layers[0].blob)] {
        assert_eq!(bench.registry.served(&key), 1, "{key}");
    }
    // The next one asks the registry again, and fetches no layer.
    bench.pull("app:1").await.unwrap();
    assert_eq!(bench.registry.served("team/app:1"), 2);
    assert_eq!(bench.registry.served(&digest(&artifact.layers[0].blob)), 1);
}

#[tokio::test]
async fn other_content_than_promised_is_refused_and_nothing_is_kept() {
    let artifact = Artifact::one_file("file", b"x");
    let other = Artifact::one_file("file", b"other");
    let layer = digest(&artifact.layers[0].blob);
    let by_digest = format!("app@{}", artifact.digest());
    let cases = [
        (by_digest.as_str(), artifact.digest(), other.manifest.clone()),
        ("app:1", artifact.id(), other.config.clone()),
        // Another layer, and the right files compressed in another way: its diffID alone would pass.
        ("app:1", layer.clone(), other.layers[0].blob.clone()),
        ("app:1", layer, zstd(&crate::artifacts::tar(&[("file", b"x")]))),
    ];
    for (name, broken, replacement) in cases {
        let bench = bench(Access::Open).await;
        bench.registry.push("app:1", &artifact);
        bench.registry.break_at(&broken, Fault::Replaced(replacement));
        let error = bench.pull(name).await.unwrap_err();
        let PullError::Failed(text) = &error else { panic!("{error:?}") };
        assert!(text.contains("digest") && text.contains("/team/app"), "{text}");
        bench.assert_nothing_kept(0).await;
        bench.registry.mend();
        bench.pull(name).await.unwrap();
    }
}

#[tokio::test]
async fn a_configuration_that_names_another_layer_is_refused() {
    let bench = bench(Access::Open).await;
    let mut lying = Layer::new(&[("file", b"x")], gzip);
    lying.diff_id = digest(b"something else");
    bench.registry.push("app:1", &Artifact::new(&[lying]));
    let error = bench.pull("app:1").await.unwrap_err();
    assert!(matches!(&error, PullError::Failed(text) if text.contains("layer digest mismatch")), "{error:?}");
    bench.assert_nothing_kept(0).await;
}

#[tokio::test]
async fn a_broken_answer_is_an_error_that_leaves_nothing() {
    let artifact = Artifact::new(&[Layer::new(&[("file", &[7; 100_000])], |bytes| bytes.to_vec())]);
    let layer = digest(&artifact.layers[0].blob);
    for (broken, is_unreachable) in [("team/app:1".to_owned(), true), (artifact.id(), true), (layer, false)] {
        let bench = bench(Access::Open).await;
        bench.registry.push("app:1", &artifact);
        bench.registry.break_at(&broken, Fault::Truncated);
        let error = bench.pull("app:1").await.unwrap_err();
        assert_eq!(matches!(error, PullError::Unreachable(_)), is_unreachable, "{error:?}");
        assert!(error.to_string().contains("/team/app:1"), "{error}");
        bench.assert_nothing_kept(0).await;
        bench.registry.mend();
        bench.pull("app:1").await.unwrap();
    }
}

#[tokio::test]
async fn a_failed_pull_goes_on_with_the_layers_it_has() {
    let bench = bench(Access::Open).await;
    let (good, bad) = (Layer::new(&[("good", b"x")], gzip), Layer::new(&[("bad", b"x")], gzip));
    bench.registry.push("good:1", &Artifact::new(std::slice::from_ref(&good)));
    let (good_blob, bad_blob) = (digest(&good.blob), digest(&bad.blob));
    bench.registry.push("app:1", &Artifact::new(&[good, bad]));
    bench.pull("good:1").await.unwrap();
    bench.registry.break_at(&bad_blob, Fault::Status(500));
    bench.pull("app:1").await.unwrap_err();
    bench.registry.mend();
    bench.pull("app:1").await.unwrap();
    assert_eq!(bench.registry.served(&good_blob), 1);
}

#[tokio::test]
async fn failures_are_told_apart_and_name_the_image() {
    let bench = bench(Access::Open).await;
    let artifact = Artifact::one_file("file", b"x");
    bench.registry.push("app:1", &artifact);
    let name = bench.registry.name("app:1");
    type Is = fn(&PullError) -> bool;
    let refused: Is = |error| matches!(error, PullError::Refused(_));
    let unreachable: Is = |error| matches!(error, PullError::Unreachable(_));
    for (status, is) in
        [(404, refused), (403, refused), (400, refused), (500, unreachable), (503, unreachable), (429, unreachable)]
    {
        for broken in ["team/app:1".to_owned(), artifact.id(), digest(&artifact.layers[0].blob)] {
            bench.registry.break_at(&broken, Fault::Status(status));
            let error = bench.store.pull(&name, &[]).await.unwrap_err();
            assert!(is(&error) && error.to_string().contains(&name), "{status} at {broken}: {error:?}");
            bench.registry.mend();
        }
    }
    let error = bench.pull("absent:1").await.unwrap_err();
    assert!(refused(&error) && error.to_string().contains("not found"), "{error:?}");
    bench.registry.tag("text:1", b"no manifest");
    assert!(matches!(bench.pull("text:1").await, Err(PullError::Failed(_))));
    bench.assert_nothing_kept(0).await;

    let error = bench.store.pull("Not A Name", &[]).await.unwrap_err();
    assert!(matches!(&error, PullError::InvalidName { reference, .. } if reference == "Not A Name"), "{error:?}");
    assert_eq!(bench.store.check("Not A Name"), Err(error));
    assert_eq!(bench.store.check(&name), Ok(()));
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let bench = bench(Access::Open).await;
    // A port that was free a moment ago, and that nothing listens on.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/team/app:1", socket.local_addr().unwrap());
    drop(socket);
    let error = bench.store.pull(&name, &[]).await.unwrap_err();
    assert!(
        matches!(&error, PullError::Unreachable(text) if text.contains(&name) && text.contains("refused")),
        "{error:?}"
    );
}

#[tokio::test]
async fn credentials_open_what_is_private() {
    let credential = |registry: &str, password: &str| Credential {
        registry: registry.to_owned(),
        username: "user".to_owned(),
        password: password.to_owned(),
    };
    for access in [Access::Token, Access::PrivateToken, Access::Basic] {
        let bench = bench(access).await;
        bench.registry.push("app:1", &Artifact::one_file("file", b"x"));
        let name = bench.registry.name("app:1");
        let anonymous = bench.store.pull(&name, &[]).await;
        if access == Access::Token {
            anonymous.unwrap();
            continue;
        }
        assert!(matches!(&anonymous, Err(PullError::Refused(text)) if text.contains(&name)), "{anonymous:?}");
        let wrong = bench.store.pull(&name, &[credential(bench.registry.address(), "guess")]).await;
        assert!(matches!(wrong, Err(PullError::Refused(_))), "{wrong:?}");
        let elsewhere = bench.store.pull(&name, &[credential("registry.example", "secret")]).await;
        assert!(matches!(elsewhere, Err(PullError::Refused(_))), "{elsewhere:?}");
        // The most specific one is wrong: the next is tried.
        let both = [
            credential(&format!("{}/team", bench.registry.address()), "guess"),
            credential(bench.registry.address(), "secret"),
        ];
        bench.store.pull(&name, &both).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_password_does_not_fail_the_pull_of_the_right_one() {
    let bench = bench(Access::PrivateToken).await;
    bench.registry.push("app:1", &Artifact::one_file("file", b"x"));
    let name = bench.registry.name("app:1");
    let credential = |password: &str| {
        [Credential {
            registry: bench.registry.address().to_owned(),
            username: "user".to_owned(),
            password: password.to_owned(),
        }]
    };
    let (wrong, right) = (credential("guess"), credential("secret"));
    let (wrong, right) = tokio::join!(bench.store.pull(&name, &wrong), bench.store.pull(&name, &right));
    assert!(matches!(wrong, Err(PullError::Refused(_))));
    right.unwrap();
    assert!(!format!("{:?}", credential("hidden")).contains("hidden"), "no password in logs");
}

#[tokio::test]
async fn a_pull_that_is_given_up_does_not_block_the_next() {
    let bench = bench(Access::Open).await;
    bench.registry.push("app:1", &Artifact::one_file("file", b"x"));
    for _ in 0..3 {
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(5), bench.pull("app:1")).await;
        assert!(given_up.is_err(), "the registry waits longer");
    }
    bench.pull("app:1").await.unwrap();
}

#[test]
fn an_agent_that_ends_does_not_wait_for_a_registry_that_stalls() {
    let executor = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (elsewhere, agent) = (executor(), executor());
    let artifact = Artifact::new(&[Layer::new(&[("file", &[7; 100_000])], |bytes| bytes.to_vec())]);
    let layer = digest(&artifact.layers[0].blob);
    let registry = elsewhere.block_on(Registry::start(Access::Open));
    registry.push("app:1", &artifact);
    registry.break_at(&layer, Fault::Stalled);
    let dir = tempfile::tempdir().unwrap();
    let store = PullingStore::open(dir.path()).unwrap();
    let name = registry.name("app:1");
    agent.spawn(async move { store.pull(&name, &[]).await });
    let staged = || {
        let layers = std::fs::read_dir(dir.path().join("staging")).unwrap().filter_map(Result::ok);
        layers.filter(|layer| layer.path().join("fs/file").exists()).count()
    };
    until(|| staged() == 1);
    let (done, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(agent);
        done.send(()).unwrap();
    });
    waiting.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(entries(&dir.path().join("staging")), 0);
}

fn until(holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it did not happen within 10 s");
        std::thread::yield_now();
    }
}
