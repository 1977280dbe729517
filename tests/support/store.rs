//! A cluster of `kontiki store` processes, and a client of one of its members.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::kv_client::KvClient;
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};

use super::{KONTIKI, Process, free_ports};

pub struct StoreCluster {
    dir: tempfile::TempDir,
    members: Vec<MemberSetup>,
    processes: Vec<Option<Process>>,
    arguments: Vec<String>,
}

struct MemberSetup {
    name: String,
    client: u16,
    peer: u16,
    /// The initial cluster of a member that joins a cluster that runs.
    joins: Option<String>,
}

impl StoreCluster {
    /// Starts `size` members and waits until each of them answers a linearizable read.
    pub async fn start(size: usize) -> Self {
        Self::start_with(size, &[]).await
    }

    /// The same, with further arguments for every member.
    pub async fn start_with(size: usize, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let ports = free_ports(2 * size);
        let members: Vec<MemberSetup> = (0..size)
            .map(|i| MemberSetup { name: format!("m{i}"), client: ports[2 * i], peer: ports[2 * i + 1], joins: None })
            .collect();
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            members,
            processes: (0..size).map(|_| None).collect(),
            arguments,
        };
        for i in 0..size {
            cluster.start_member(i);
        }
        for i in 0..size {
            cluster.await_ready(i).await;
        }
        cluster
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn start_member(&mut self, i: usize) {
        assert!(self.processes[i].is_none(), "member {i} runs already");
        let member = &self.members[i];
        let first = self.members.iter().filter(|m| m.joins.is_none());
        let first: Vec<String> = first.map(|m| format!("{}=http://127.0.0.1:{}", m.name, m.peer)).collect();
        let cluster = member.joins.clone().unwrap_or_else(|| first.join(","));
        let state = if member.joins.is_some() { "existing" } else { "new" };
        let (client, peer) = (self.client_url(i), format!("http://127.0.0.1:{}", member.peer));
        let mut command = Command::new(KONTIKI);
        command.arg("store").args(["--name", &member.name]).arg("--data-dir").arg(self.dir.path().join(&member.name));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &cluster, "--initial-cluster-token", "test"]);
        command.args(["--initial-cluster-state", state]);
        command.args(&self.arguments);
        self.processes[i] = Some(Process::spawn(&member.name, &mut command, &self.log(i)));
    }

    /// A member that does not run yet and is in no cluster; its number.
    pub fn prepare_member(&mut self) -> usize {
        let (i, ports) = (self.members.len(), free_ports(2));
        let joins = Some(String::new());
        self.members.push(MemberSetup { name: format!("m{i}"), client: ports[0], peer: ports[1], joins });
        self.processes.push(None);
        i
    }

    /// What the new member must be told: `name=url,…` of everyone, itself included.
    pub fn set_initial_cluster(&mut self, i: usize, cluster: &str) {
        self.members[i].joins = Some(cluster.to_owned());
    }

    pub fn name(&self, i: usize) -> &str {
        &self.members[i].name
    }

    pub fn peer_url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", self.members[i].peer)
    }

    pub fn kill(&mut self, i: usize) {
        // Dropping kills with SIGKILL and waits.
        drop(self.processes[i].take());
    }

    pub fn process(&mut self, i: usize) -> &mut Process {
        self.processes[i].as_mut().expect("the member runs")
    }

    pub fn forget(&mut self, i: usize) {
        self.processes[i] = None;
    }

    pub fn is_running(&self, i: usize) -> bool {
        self.processes[i].is_some()
    }

    pub fn client_url(&self, i: usize) -> String {
        format!("http://127.0.0.1:{}", self.members[i].client)
    }

    pub fn endpoints(&self) -> String {
        (0..self.len()).map(|i| self.client_url(i)).collect::<Vec<_>>().join(",")
    }

    pub fn data_dir(&self, i: usize) -> PathBuf {
        self.dir.path().join(&self.members[i].name)
    }

    pub fn log(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", self.members[i].name))
    }

    /// A client of one member that connects when it is first used.
    pub fn channel(&self, i: usize) -> Channel {
        let endpoint = Endpoint::from_shared(self.client_url(i)).unwrap();
        endpoint
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .connect_lazy()
    }

    pub async fn await_ready(&self, i: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let mut client = KvClient::new(self.channel(i));
        loop {
            let read = client.range(pb::RangeRequest { key: "ready".into(), ..Default::default() }).await;
            match read {
                Ok(_) => return,
                Err(status) if tokio::time::Instant::now() > deadline => {
                    let log = std::fs::read_to_string(self.log(i)).unwrap_or_default();
                    panic!("member {i} is not ready: {status}\n{log}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// The index of the leading member, as the members say.
    pub async fn leader(&self) -> usize {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            for i in (0..self.len()).filter(|i| self.is_running(*i)) {
                let mut client = MaintenanceClient::new(self.channel(i));
                let Ok(status) = client.status(pb::StatusRequest {}).await else { continue };
                let status = status.into_inner();
                if status.leader == status.header.as_ref().map_or(0, |header| header.member_id) {
                    return i;
                }
            }
            assert!(tokio::time::Instant::now() < deadline, "no member leads");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for StoreCluster {
    fn drop(&mut self) {
        self.processes.clear();
        if std::thread::panicking() {
            for i in 0..self.len() {
                let log = std::fs::read_to_string(self.log(i)).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                eprintln!("--- {}", self.members[i].name);
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}
