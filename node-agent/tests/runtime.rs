//! Real containers from busybox through the real shim. Needs root.

#![allow(clippy::disallowed_methods, reason = "tests make the world they need")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

#[path = "runtime/limits.rs"]
mod limits;
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kontiki_node_agent::runtime::plan::{Mount, MountSource, Propagation, TerminationLog, UserPlan};
use kontiki_node_agent::runtime::{ContainerState, Runtime, RuntimeEvent, Stage, lookup_user};
use support::{Node, hierarchies, on_a_node, sandbox, wait_until};

#[test]
fn a_command_runs_and_its_output_and_exit_code_are_kept() {
    on_a_node(|mut node| async move {
        let plan = node.shell("p1", "echo $GREETING; echo oops >&2; exit 3");
        let (exit, log) = node.run("p1", plan).await;
        assert_eq!((exit.code, exit.signal, exit.oom), (3, None, false));
        assert_eq!(log, "hello\noops\n");
        let raw = std::fs::read_to_string(node.log_path("p1")).unwrap();
        assert!(raw.lines().any(|line| line.contains("Z stderr F oops")), "{raw}");
    });
}

#[test]
fn a_container_sees_its_own_world() {
    on_a_node(|mut node| async move {
        let script = "echo pid $$; hostname; pwd; ls /dev | tr '\\n' ' '; echo; ip -4 addr show eth0 | grep -c inet; \
                      echo procs $(ls -d /proc/[0-9]* | wc -l); echo home $HOME; mount | grep -c overlay; ls /proc/1/fd > /tmp/fds; wc -l < /tmp/fds";
        let mut plan = node.shell("p2", script);
        plan.cwd = PathBuf::from("/made/for/me");
        let (exit, log) = node.run("p2", plan).await;
        assert_eq!(exit.code, 0, "{log}");
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines[..3], ["pid 1", "p2-host", "/made/for/me"]);
        assert_eq!(lines[3].trim(), "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero");
        assert_eq!(lines[4], "1");
        // The shell, the subshell of $(…), ls and wc at most: nothing of the node.
        assert!(lines[5].strip_prefix("procs ").unwrap().parse::<u32>().unwrap() <= 5, "{log}");
        assert_eq!(lines[6..8], ["home /root", "1"]);
        // Standard streams, and the file that the shell has opened for `ls`; nothing of the shim.
        assert!(["3", "4"].contains(&lines[8]), "leaked descriptors: {log}");
    });
}

#[test]
fn power_is_given_up() {
    on_a_node(|mut node| async move {
        let script = "cat /proc/self/status; id; (echo 1 > /proc/sys/vm/swappiness) 2>&1; (mount -t tmpfs x /tmp) 2>&1; \
                      cat /proc/keys | wc -c; mknod /disk b 254 0 && dd if=/disk of=/dev/null count=1 2>&1 | tail -1";
        let mut plan = node.shell("p3", script);
        plan.no_new_privileges = true;
        let (_, log) = node.run("p3", plan).await;
        for line in [
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "CapInh:\t0000000000000000",
            "Seccomp:\t2",
            "NoNewPrivs:\t1",
        ] {
            assert!(log.contains(line), "{line} is missing in:\n{log}");
        }
        assert!(log.contains("Read-only file system") && log.contains("mount: permission denied"), "{log}");
        assert!(log.contains("\n0\n"), "/proc/keys is masked: {log}");
        assert!(log.contains("Permission denied"), "devices made in a container cannot be opened: {log}");
    });
}

#[test]
fn another_user_has_no_capabilities() {
    on_a_node(|mut node| async move {
        let user = lookup_user(&[node.directory.join("rootfs")], "web").unwrap();
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (33, 33, [40].as_slice()));
        let mut plan = node.shell("p4", "id; cat /proc/self/status; echo home $HOME");
        plan.user = UserPlan { uid: user.uid, gid: user.gid, groups: user.groups };
        let (_, log) = node.run("p4", plan).await;
        assert!(
            log.contains("uid=33(web) gid=33(web) groups=33(web),40(logs)")
                || log.contains("uid=33(web) gid=33(web) groups=40"),
            "{log}"
        );
        assert!(log.contains("CapEff:\t0000000000000000") && log.contains("home /var/www"), "{log}");
    });
}

#[test]
fn a_command_that_cannot_run_says_why() {
    on_a_node(|node| async move {
        node.runtime.create_sandbox(sandbox("p5")).await.unwrap();
        let cases = [
            ("nothing-like-it", "exec: \"nothing-like-it\": executable file not found in $PATH"),
            ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ];
        for (command, message) in cases {
            let error = node.runtime.start_container("p5", node.container("p5", &[command])).await.unwrap_err();
            assert_eq!((error.stage, error.message.as_str()), (Stage::Exec, message));
        }
        let mut plan = node.container("p5", &["true"]);
        plan.mounts = vec![bind("/no/such/volume", "/mnt")];
        let error = node.runtime.start_container("p5", plan).await.unwrap_err();
        assert_eq!(error.message, "cannot mount /no/such/volume on /mnt: no such file or directory");
        assert_eq!(std::fs::read_dir(node.directory.join("scratch")).unwrap().count(), 0);
    });
}

fn bind(source: impl AsRef<Path>, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        source: MountSource::Bind(source.as_ref().to_owned()),
        read_only: false,
        propagation: Propagation::Private,
    }
}

#[test]
fn volumes_are_mounted_and_stay_inside() {
    on_a_node(|mut node| async move {
        let volume = node.directory.join("volume");
        std::fs::create_dir_all(volume.join("sub")).unwrap();
        std::fs::write(volume.join("sub/file"), "content\n").unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("escape")).unwrap();
        let mut plan = node.shell(
            "p6",
            "cat /data/sub/file /one; echo x > /ro/y; echo bye > /dev/termination-log; touch /data/new; echo x > /z",
        );
        plan.mounts = vec![bind(&volume, "/data"), bind(volume.join("sub/file"), "/one"), bind(&volume, "/ro")];
        plan.mounts[2].read_only = true;
        plan.read_only_root = true;
        let termination = node.directory.join("termination");
        plan.termination_log =
            Some(TerminationLog { host_path: termination.clone(), container_path: "/dev/termination-log".into() });
        let (_, log) = node.run("p6", plan).await;
        assert_eq!(log.matches("content").count(), 2, "{log}");
        assert_eq!(log.matches("Read-only file system").count(), 2, "{log}");
        assert_eq!(std::fs::read_to_string(termination).unwrap(), "bye\n");
        assert!(volume.join("new").exists());

        let mut plan = node.container("p6", &["true"]);
        let source = MountSource::BindBelow { root: volume, sub_path: "escape/ssl".into() };
        plan.mounts =
            vec![Mount { destination: "/x".into(), source, read_only: false, propagation: Propagation::Private }];
        assert_eq!(node.runtime.start_container("p6", plan).await.unwrap_err().stage, Stage::Mount);
    });
}

#[test]
fn stopping_is_polite_first() {
    on_a_node(|mut node| async move {
        let plan = node.shell("p8", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done");
        node.runtime.create_sandbox(sandbox("p8")).await.unwrap();
        node.runtime.start_container("p8", plan).await.unwrap();
        wait_until("the trap", || node.log("p8").contains("ready")).await;
        node.runtime.stop("p8", "c", Duration::from_secs(30)).await.unwrap();
        assert_eq!(node.exit().await.1.code, 7);

        // The first process of a pid namespace ignores a signal without a handler: the grace runs out.
        let mut plan = node.container("p8", &["sleep", "1000"]);
        plan.attempt = 1;
        node.runtime.start_container("p8", plan).await.unwrap();
        node.runtime.stop("p8", "c", Duration::from_millis(100)).await.unwrap();
        let (key, exit) = node.exit().await;
        assert_eq!((key.attempt, exit.code, exit.signal), (1, 137, Some(9)));
    });
}

#[test]
fn pods_reach_each_other() {
    on_a_node(|mut node| async move {
        let server = node.runtime.create_sandbox(sandbox("p9a")).await.unwrap();
        let plan = node.shell("p9a", "echo hi > /tmp/index.html; httpd -f -p 80 -h /tmp");
        node.runtime.start_container("p9a", plan).await.unwrap();
        let address = server.ip.unwrap();
        let script =
            format!("for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://{address}/ && exit 0; sleep 0.2; done; exit 1");
        let plan = node.shell("p9b", &script);
        let (exit, log) = node.run("p9b", plan).await;
        assert_eq!((exit.code, log.as_str()), (0, "hi\n"));
    });
}

#[test]
fn pods_of_two_agents_on_one_machine_reach_each_other() {
    on_a_node(|one| async move {
        let address = one.runtime.create_sandbox(sandbox("two-a")).await.unwrap().ip.unwrap();
        let plan = one.shell("two-a", "echo over > /tmp/index.html; httpd -f -p 80 -h /tmp");
        one.runtime.start_container("two-a", plan).await.unwrap();
        // A node of its own thread, since each blocks on its own executor.
        let other = std::thread::spawn(move || {
            on_a_node(move |mut two| async move {
                let script = format!(
                    "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://{address}/ && exit 0; sleep 0.2; done; exit 1"
                );
                let plan = two.shell("two-b", &script);
                let (exit, log) = two.run("two-b", plan).await;
                assert_eq!((exit.code, log.as_str()), (0, "over\n"));
            });
        });
        tokio::task::spawn_blocking(|| other.join().unwrap()).await.unwrap();
    });
}

#[test]
fn a_half_made_sandbox_is_cleaned_up() {
    on_a_node(|node| async move {
        let half = node.config.run_dir.join("pods/half");
        std::fs::create_dir(&half).unwrap();
        drop(std::os::unix::net::UnixListener::bind(half.join("shim.sock")).unwrap());
        assert!(node.runtime.recover().await.unwrap().is_empty());
        assert!(!half.exists());
    });
}

#[test]
fn containers_outlive_the_agent_and_no_exit_is_lost() {
    on_a_node(|node| async move {
        node.runtime.create_sandbox(sandbox("p10")).await.unwrap();
        let plan = node.shell("p10", "while ! test -e /tmp/../go/now; do sleep 0.02; done; echo done; exit 5");
        let go = node.directory.join("go");
        std::fs::create_dir(&go).unwrap();
        let plan = {
            let mut plan = plan;
            plan.mounts = vec![bind(&go, "/go")];
            plan
        };
        node.runtime.start_container("p10", plan.clone()).await.unwrap();
        // The agent goes; the container ends while nobody is there.
        let Node { runtime, events, directory, config, pod_cidr } = node;
        drop((runtime, events));
        let runtime = Runtime::open(config.clone()).await.unwrap();
        let mut events = runtime.events();
        let recovered = runtime.recover().await.unwrap();
        assert_eq!(recovered.len(), 1);
        assert!(!recovered[0].lost && recovered[0].plan == sandbox("p10"));
        assert!(matches!(recovered[0].containers[0].state, ContainerState::Running(_)));
        runtime.set_pod_cidr(&pod_cidr).await.unwrap();
        let other = runtime.create_sandbox(sandbox("p11")).await.unwrap();
        assert_ne!(other.ip, recovered[0].sandbox.ip);
        std::fs::write(go.join("now"), "").unwrap();
        let event = events.recv().await.unwrap();
        let RuntimeEvent::Exited { container, exit } = event.clone() else { panic!("{event:?}") };
        assert_eq!(exit.code, 5);
        // Not acknowledged: a third agent hears it again, and after its acknowledgement a fourth does not.
        let third = Runtime::open(config.clone()).await.unwrap();
        let mut third_events = third.events();
        assert!(matches!(&third.recover().await.unwrap()[..], [_, _]));
        assert_eq!(third_events.recv().await.unwrap(), event);
        third.ack(&container).await.unwrap();
        let fourth = Runtime::open(config).await.unwrap();
        let mut fourth_events = fourth.events();
        fourth.recover().await.unwrap();
        fourth.remove_container(&container).await.unwrap();
        assert!(fourth_events.try_recv().is_err());
        assert_eq!(std::fs::read_dir(directory.join("scratch")).unwrap().count(), 0);
    });
}

#[test]
fn a_lost_shim_is_noticed_and_its_containers_killed() {
    on_a_node(|mut node| async move {
        let created = node.runtime.create_sandbox(sandbox("p12")).await.unwrap();
        let started = node.runtime.start_container("p12", node.container("p12", &["sleep", "1000"])).await.unwrap();
        let kill = std::process::Command::new("kill").args(["-9", &created.shim_pid.to_string()]).status().unwrap();
        assert!(kill.success());
        let event = tokio::time::timeout(Duration::from_secs(30), node.events.recv()).await.unwrap();
        assert_eq!(event, Some(RuntimeEvent::ShimLost { pod_uid: "p12".to_owned() }));
        wait_until("the container's end", || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap_or_default();
            status.is_empty() || status.contains("State:\tZ")
        })
        .await;
        node.runtime.remove_sandbox("p12").await.unwrap();
        assert_eq!(std::fs::read_dir(node.config.run_dir.join("pods")).unwrap().count(), 0);
    });
}

#[test]
fn thirty_pods_leave_nothing() {
    on_a_node(|mut node| async move {
        let before = Traces::look(&node);
        let mut latencies = Vec::new();
        for number in 0..15 {
            let start = Instant::now();
            start_sleeper(&node, number).await;
            latencies.push(start.elapsed());
        }
        latencies.sort();
        let start = Instant::now();
        futures::future::join_all((15..30).map(|number| start_sleeper(&node, number))).await;
        println!("sandbox and exec: p50 {:?}, max {:?}; 15 at once {:?}", latencies[7], latencies[14], start.elapsed());
        let removals = (0..30).map(|number| remove(&node, number));
        futures::future::join_all(removals).await;
        assert_eq!(std::fs::read_dir(node.directory.join("scratch")).unwrap().count(), 0);
        // The kernel takes network devices away in the background.
        wait_until("everything is as before", || Traces::look(&node) == before).await;
        while let Ok(event) = node.events.try_recv() {
            assert!(matches!(event, RuntimeEvent::Exited { exit, .. } if exit.code == 137));
        }
    });
}

async fn start_sleeper(node: &Node, number: u32) {
    let uid = format!("many-{number}");
    node.runtime.create_sandbox(sandbox(&uid)).await.unwrap();
    node.runtime.start_container(&uid, node.container(&uid, &["sleep", "1000"])).await.unwrap();
}

async fn remove(node: &Node, number: u32) {
    node.runtime.remove_sandbox(&format!("many-{number}")).await.unwrap();
}

/// What a node may leak.
#[derive(Debug, PartialEq)]
struct Traces {
    mounts: usize,
    cgroups: usize,
    pods: usize,
    ports: usize,
}

impl Traces {
    fn look(node: &Node) -> Self {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = node.config.run_dir.to_string_lossy().into_owned();
        let count = |path: PathBuf| std::fs::read_dir(path).map(Iterator::count).unwrap_or(0);
        let pods_in = |root: PathBuf| {
            let pods = std::fs::read_dir(root.join(&node.config.cgroup_parent).join("kubepods/besteffort"));
            pods.into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()).count()
        };
        Self {
            mounts: mountinfo.lines().filter(|line| line.contains(&own) || line.contains("kontiki-runtime")).count(),
            cgroups: hierarchies().into_iter().map(pods_in).sum(),
            pods: count(node.config.run_dir.join("pods")),
            ports: count(PathBuf::from(format!("/sys/class/net/{}/brif", node.config.bridge))),
        }
    }
}
