//! The default seccomp profile as a BPF program: what a container may ask the kernel.
//!
//! An allow-list in the spirit of Docker's, containerd's and podman's. What is known and not allowed gets EPERM; what this
//! file does not know gets ENOSYS, so that a libc newer than the list falls back instead of failing. Foreign architectures
//! kill the process. The program is a binary search over ranges of numbers with equal answers, about a hundred
//! instructions on any path's bill but seven or eight executed.

use super::capability::CapabilitySet;
use super::plan::Seccomp;
use super::syscalls::{ALLOWED, CLONE, CLONE3, FOR_CAPABILITY, PERSONALITY, REFUSED, SOCKET};

/// What to do with one system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Allow,
    Refuse,
    Unknown,
    /// Allowed unless a flag asks for a new namespace.
    CloneWithoutNamespaces,
    /// Allowed for the personalities that change nothing of note.
    HarmlessPersonality,
    /// Allowed unless the address family reaches the hypervisor.
    SocketWithoutVsock,
}

/// The program for a container with these capabilities, or `None` when nothing is to be filtered.
pub(super) fn program(profile: Seccomp, capabilities: CapabilitySet) -> Option<Vec<libc::sock_filter>> {
    match profile {
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(assemble(&ranges(&answers(capabilities)))),
    }
}

/// The answer for each number up to the highest known, by number.
fn answers(capabilities: CapabilitySet) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut set = |number: i64, answer: Answer| {
        let index = usize::try_from(number).expect("invariant: system call numbers are positive");
        if answers.len() <= index {
            answers.resize(index + 1, Answer::Unknown);
        }
        answers[index] = answer;
    };
    REFUSED.iter().copied().flatten().for_each(|number| set(*number, Answer::Refuse));
    ALLOWED.iter().copied().flatten().for_each(|number| set(*number, Answer::Allow));
    set(PERSONALITY, Answer::HarmlessPersonality);
    set(SOCKET, Answer::SocketWithoutVsock);
    set(CLONE, Answer::CloneWithoutNamespaces);
    // Its flags are behind a pointer, out of a filter's reach: ENOSYS makes libc use `clone`.
    set(CLONE3, Answer::Unknown);
    for (name, numbers) in FOR_CAPABILITY {
        let answer = if capabilities.contains(name) { Answer::Allow } else { Answer::Refuse };
        numbers.iter().for_each(|number| set(*number, answer));
    }
    if capabilities.contains("SYS_ADMIN") {
        set(CLONE, Answer::Allow);
        set(CLONE3, Answer::Allow);
    }
    answers
}

/// Where each run of equal answers starts; everything past the last known number is unknown.
fn ranges(answers: &[Answer]) -> Vec<(u32, Answer)> {
    let mut ranges: Vec<(u32, Answer)> = Vec::new();
    for (number, answer) in (0u32..).zip(answers.iter().copied().chain([Answer::Unknown])) {
        if ranges.last().is_none_or(|(_, last)| *last != answer) {
            ranges.push((number, answer));
        }
    }
    ranges
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Numbers of the x32 ABI of x86-64 have this bit.
const X32_BIT: u32 = 0x4000_0000;

fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn assemble(ranges: &[(u32, Answer)]) -> Vec<libc::sock_filter> {
    let mut program = vec![
        instruction(LOAD, ARCHITECTURE, 0, 0),
        instruction(JUMP_EQUAL, AUDIT_ARCH, 1, 0),
        instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        instruction(LOAD, NUMBER, 0, 0),
        instruction(JUMP_AT_LEAST, X32_BIT, 0, 1),
        instruction(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
    ];
    program.extend(search(ranges));
    program
}

/// `ranges` cut in halves: jumps are 8 bits wide, so the far side is reached by an unconditional jump.
fn search(ranges: &[(u32, Answer)]) -> Vec<libc::sock_filter> {
    if let [(_, answer)] = ranges {
        return leaf(*answer);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (low_code, high_code) = (search(low), search(high));
    let over_low = u32::try_from(low_code.len()).expect("invariant: a filter has fewer than 4096 instructions");
    let mut code = vec![instruction(JUMP_AT_LEAST, high[0].0, 0, 1), instruction(JUMP, over_low, 0, 0)];
    code.extend(low_code);
    code.extend(high_code);
    code
}

fn leaf(answer: Answer) -> Vec<libc::sock_filter> {
    let allow = instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
    let error = |errno: i32| instruction(RETURN, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(), 0, 0);
    match answer {
        Answer::Allow => vec![allow],
        Answer::Refuse => vec![error(libc::EPERM)],
        Answer::Unknown => vec![error(libc::ENOSYS)],
        Answer::CloneWithoutNamespaces => {
            let namespaces = libc::CLONE_NEWNS
                | libc::CLONE_NEWUTS
                | libc::CLONE_NEWIPC
                | libc::CLONE_NEWUSER
                | libc::CLONE_NEWPID
                | libc::CLONE_NEWNET
                | libc::CLONE_NEWCGROUP;
            vec![
                instruction(LOAD, FIRST_ARGUMENT, 0, 0),
                instruction(JUMP_ANY_BIT, namespaces.cast_unsigned(), 0, 1),
                error(libc::EPERM),
                allow,
            ]
        }
        Answer::HarmlessPersonality => {
            let known = [0, 0x8, 0x2_0000, 0x2_0008, u32::MAX];
            let mut code = vec![instruction(LOAD, FIRST_ARGUMENT, 0, 0)];
            for (index, personality) in known.iter().enumerate() {
                let to_allow = u8::try_from(known.len() - index).expect("invariant: few personalities");
                code.push(instruction(JUMP_EQUAL, *personality, to_allow, 0));
            }
            code.extend([error(libc::EPERM), allow]);
            code
        }
        Answer::SocketWithoutVsock => vec![
            instruction(LOAD, FIRST_ARGUMENT, 0, 0),
            instruction(JUMP_EQUAL, libc::AF_VSOCK.cast_unsigned(), 0, 1),
            error(libc::EPERM),
            allow,
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough of a BPF machine to run what `assemble` makes.
    fn run(program: &[libc::sock_filter], number: u32, architecture: u32, argument: u32) -> u32 {
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let instruction = program[at];
            at += 1;
            let jump = |condition: bool| usize::from(if condition { instruction.jt } else { instruction.jf });
            match instruction.code {
                LOAD => {
                    accumulator = match instruction.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        FIRST_ARGUMENT => argument,
                        other => panic!("offset {other}"),
                    }
                }
                JUMP => at += instruction.k as usize,
                JUMP_EQUAL => at += jump(accumulator == instruction.k),
                JUMP_AT_LEAST => at += jump(accumulator >= instruction.k),
                JUMP_ANY_BIT => at += jump(accumulator & instruction.k != 0),
                RETURN => return instruction.k,
                other => panic!("code {other}"),
            }
        }
    }

    fn check(capabilities: CapabilitySet, number: i64, argument: u32, expected: u32) {
        let program = program(Seccomp::RuntimeDefault, capabilities).unwrap();
        assert_eq!(run(&program, u32::try_from(number).unwrap(), AUDIT_ARCH, argument), expected, "call {number}");
    }

    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn ordinary_calls_pass_and_dangerous_ones_do_not() {
        let set = CapabilitySet::default();
        check(set, libc::SYS_read, 0, ALLOW);
        check(set, libc::SYS_execve, 0, ALLOW);
        check(set, libc::SYS_openat2, 0, ALLOW);
        check(set, libc::SYS_mount, 0, EPERM);
        check(set, libc::SYS_bpf, 0, EPERM);
        check(set, libc::SYS_io_uring_setup, 0, EPERM);
        check(set, libc::SYS_clone3, 0, ENOSYS);
        check(set, 5000, 0, ENOSYS);
    }

    #[test]
    fn capabilities_open_their_calls() {
        let admin = CapabilitySet::empty().with("SYS_ADMIN").unwrap();
        check(admin, libc::SYS_mount, 0, ALLOW);
        check(admin, libc::SYS_clone3, 0, ALLOW);
        check(admin, libc::SYS_init_module, 0, EPERM);
    }

    #[test]
    fn arguments_are_looked_at() {
        let set = CapabilitySet::default();
        check(set, libc::SYS_clone, libc::CLONE_VM as u32, ALLOW);
        check(set, libc::SYS_clone, libc::CLONE_NEWUSER as u32, EPERM);
        check(set, libc::SYS_personality, 0x2_0000, ALLOW);
        check(set, libc::SYS_personality, 0x40_0000, EPERM);
        check(set, libc::SYS_socket, libc::AF_INET as u32, ALLOW);
        check(set, libc::SYS_socket, libc::AF_VSOCK as u32, EPERM);
    }

    #[test]
    fn foreign_calls_kill() {
        let program = program(Seccomp::RuntimeDefault, CapabilitySet::all()).unwrap();
        assert_eq!(run(&program, 0, 0x4000_0003, 0), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(run(&program, X32_BIT | 1, AUDIT_ARCH, 0), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn the_program_is_small() {
        let length = program(Seccomp::RuntimeDefault, CapabilitySet::default()).unwrap().len();
        assert!(length < 400, "{length} instructions");
    }
}
