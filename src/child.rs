//! Child processes without a shell, never left behind: each one leads a process group of its own, which is killed as a whole
//! when its [`Child`] is dropped, and the kernel kills the child if we die.
//!
//! Always true: the environment is what was given and nothing else; the streams that are not asked for are `/dev/null`; what
//! the child writes to standard error is read all the time (it never blocks there) and its end is kept.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    process::{
        Pid, PidfdFlags, Signal, getpid, getppid, kill_process_group, pidfd_open, set_parent_process_death_signal,
    },
};
use tokio::{
    io::{AsyncReadExt, unix::AsyncFd},
    process::ChildStderr,
    runtime::Handle,
    sync::oneshot,
    task::JoinHandle,
};

/// How much of the end of standard error is kept, in bytes.
pub const STDERR_TAIL: usize = 64 * 1024;

/// Size asked for each pipe, in bytes: the largest that an unprivileged process may have by default
/// (`/proc/sys/fs/pipe-max-size`, pipe(7)). With less room `pg_dump` and its reader wait for each other more often.
const PIPE_BYTES: usize = 1024 * 1024;

/// How long [`Child::wait`] waits, after the child's end, for the end of its standard error. A process that left the group may
/// hold it open for ever.
const STDERR_GRACE: Duration = Duration::from_secs(2);

/// A program to start. Its environment is empty but for `LC_ALL=C`, so that messages are in one language.
#[derive(Debug)]
pub struct Command {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    run_as: Option<(u32, u32)>,
    inherited: Vec<Arc<File>>,
    stdin: Stream,
    stdout: Stream,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stream {
    Null,
    Pipe,
}

impl Command {
    /// `program` is a path: nothing is searched for in `PATH`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: vec![("LC_ALL".into(), "C".into())],
            directory: None,
            run_as: None,
            inherited: Vec::new(),
            stdin: Stream::Null,
            stdout: Stream::Null,
        }
    }

    /// Lets the child have this open file too. It finds it under the path that [`inherited_path`] tells.
    #[must_use]
    pub fn inherit(mut self, file: Arc<File>) -> Self {
        self.inherited.push(file);
        self
    }

    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets one variable; the last value given for a name counts.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Runs the program as another user, with no supplementary groups. Only root can.
    #[must_use]
    pub fn run_as(mut self, uid: u32, gid: u32) -> Self {
        self.run_as = Some((uid, gid));
        self
    }

    /// Gives the child a pipe to read from: [`Child::stdin`].
    #[must_use]
    pub fn stdin_pipe(mut self) -> Self {
        self.stdin = Stream::Pipe;
        self
    }

    /// Gives the child a pipe to write to: [`Child::stdout`].
    #[must_use]
    pub fn stdout_pipe(mut self) -> Self {
        self.stdout = Stream::Pipe;
        self
    }

    /// Starts the program. If the returned future is dropped, the child, if there is one already, is killed.
    ///
    /// # Errors
    /// The program cannot be run (missing, not executable, no right to change the user), or no process or pipe can be had.
    pub async fn spawn(self) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts child processes is gone");
        let spawner = SPAWNER.as_ref().ok_or_else(gone)?;
        spawner.send(Request { command: self, runtime: Handle::current(), reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

struct Request {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// The one thread that starts children. The kernel sends the parent-death signal when the *thread* that forked ends
/// (prctl(2), `PR_SET_PDEATHSIG`), and a runtime's threads come and go; this one lives as long as the process.
static SPAWNER: LazyLock<Option<Sender<Request>>> = LazyLock::new(|| {
    let (requests, inbox) = channel::<Request>();
    let run = move || {
        for Request { command, runtime, reply } in inbox {
            // A runtime that is shutting down panics when it is asked for a task. That must not end this thread: every
            // running child would die with it.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| start(command, &runtime)))
                .unwrap_or_else(|_| Err(io::Error::other("cannot start a child process while shutting down")));
            // When nobody waits any more the child comes back and is killed by its `Drop`.
            drop(reply.send(result));
        }
    };
    std::thread::Builder::new().name("child-spawner".to_owned()).spawn(run).ok().map(|_| requests)
});

/// Forks and executes, on the spawner thread.
fn start(command: Command, runtime: &Handle) -> io::Result<Child> {
    let _entered = runtime.enter();
    let mut process = tokio::process::Command::new(&command.program);
    process.args(&command.arguments).env_clear().envs(command.environment).process_group(0).stderr(Stdio::piped());
    if let Some(directory) = &command.directory {
        process.current_dir(directory);
    }
    if let Some((uid, gid)) = command.run_as {
        // std drops the supplementary groups when root changes the user.
        process.uid(uid).gid(gid);
    }
    let stdin = match command.stdin {
        Stream::Null => (Stdio::null(), None),
        Stream::Pipe => pipe().map(|(read, write)| (Stdio::from(read), Some(File::from(write))))?,
    };
    let stdout = match command.stdout {
        Stream::Null => (Stdio::null(), None),
        Stream::Pipe => pipe().map(|(read, write)| (Stdio::from(write), Some(File::from(read))))?,
    };
    process.stdin(stdin.0).stdout(stdout.0);
    in_the_child(&mut process, command.inherited);
    let mut child = process.spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let stderr = child.stderr.take();
    let mut child = Child {
        stdin: stdin.1,
        stdout: stdout.1,
        process: child,
        // Kernels older than 5.3 have none; then only `tokio` sees the end, after having reaped.
        ended: group.and_then(|id| pidfd_open(id, PidfdFlags::empty()).ok()).and_then(|fd| readable(fd).ok()),
        group,
        status: None,
        tail: Arc::default(),
        tail_reader: None,
    };
    child.tail_reader = stderr.map(|stderr| tokio::spawn(keep_tail(stderr, Arc::clone(&child.tail))));
    Ok(child)
}

/// Where a child finds a file that it [inherits](Command::inherit): for programs that take only a path. So a file can be without a name, and
/// nothing is left of it however we end. Source: proc_pid_fd(5).
pub fn inherited_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Has the kernel kill the child when we die, however we die; and keeps the inherited files open in it.
#[allow(unsafe_code)] // the one exception: `pre_exec` cannot be called otherwise
fn in_the_child(process: &mut tokio::process::Command, inherited: Vec<Arc<File>>) {
    let parent = getpid();
    let in_child = move || {
        for file in &inherited {
            fcntl_setfd(file, FdFlags::empty())?;
        }
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // If we died between the fork and the line above, no signal comes any more: the child has another parent now.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from(rustix::io::Errno::SRCH)) }
    };
    // SAFETY: the closure runs in the forked child of a program with threads, where only async-signal-safe work is allowed. It
    // makes a few plain system calls, takes no lock, allocates nothing (an `io::Error` made from an errno holds only the number),
    // and what it owns is only looked at: it is dropped in the parent.
    unsafe { process.pre_exec(in_child) };
}

/// A process descriptor becomes readable when the process has ended (pidfd_open(2)).
#[allow(
    deprecated,
    reason = "tokio deprecates it for types that may close their descriptor meanwhile: `OwnedFd` cannot"
)]
fn readable(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(process)
}

/// A pipe that no other child inherits, as large as we may have it.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Best effort: a user over its `pipe-user-pages` limit keeps the default 64 KiB.
    let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
    Ok((read, write))
}

async fn keep_tail(mut stderr: ChildStderr, tail: Arc<Mutex<VecDeque<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(&buffer[..length]);
        let excess = tail.len().saturating_sub(STDERR_TAIL);
        tail.drain(..excess);
    }
}

/// A running child process. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct Child {
    /// The end of the child's standard input that we write, when asked for. Blocks. Drop it to let the child see the end.
    pub stdin: Option<File>,
    /// The end of the child's standard output that we read, when asked for. Blocks.
    pub stdout: Option<File>,
    process: tokio::process::Child,
    ended: Option<AsyncFd<OwnedFd>>,
    group: Option<Pid>,
    /// Set once the child was reaped: from then on its number may belong to a stranger.
    status: Option<ExitStatus>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    tail_reader: Option<JoinHandle<()>>,
}

/// How a child ended.
#[derive(Clone, Debug)]
pub struct Exit {
    pub status: ExitStatus,
    /// The last [`STDERR_TAIL`] bytes of standard error; what is not UTF-8 is replaced.
    pub stderr: String,
}

impl Child {
    /// The process id, which is the group's as well.
    pub fn id(&self) -> u32 {
        self.group.map_or(0, |id| id.as_raw_nonzero().get().cast_unsigned())
    }

    /// Waits for the child's end, kills what it left behind in its group, and reaps it. Closes [`stdin`](Self::stdin) first, if
    /// it is still here. May be dropped and called again; after the end it gives the same answer again.
    ///
    /// # Errors
    /// The operating system refuses to tell, which it does not for a child of our own.
    pub async fn wait(&mut self) -> io::Result<Exit> {
        self.stdin = None;
        let status = match self.status {
            Some(status) => status,
            None => {
                if let Some(ended) = &self.ended {
                    // The child has ended but is not reaped, so its number still means its group.
                    let _ = ended.readable().await?;
                    self.kill();
                }
                let status = self.process.wait().await?;
                self.status = Some(status);
                status
            }
        };
        if let Some(reader) = &mut self.tail_reader {
            if tokio::time::timeout(STDERR_GRACE, &mut *reader).await.is_err() {
                reader.abort();
            }
            self.tail_reader = None;
        }
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let stderr = String::from_utf8_lossy(tail.make_contiguous()).into_owned();
        Ok(Exit { status, stderr })
    }

    /// Sends SIGKILL to the whole group. Does nothing once [`wait`](Self::wait) has returned.
    pub fn kill(&self) {
        if let (Some(group), None) = (self.group, self.status) {
            // Fails only when nobody is left in the group.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Not reaped here: `tokio` reaps a dropped child when it ends.
        self.kill();
        if let Some(reader) = &self.tail_reader {
            reader.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::process::ExitStatusExt,
    };

    use super::*;

    fn sh(script: &str) -> Command {
        Command::new("/bin/sh").args(["-c", script])
    }

    fn text(child: &mut Child) -> String {
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn bytes_pass_through_both_pipes() {
        let mut child = Command::new("/bin/cat").stdin_pipe().stdout_pipe().spawn().await.unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let written = std::thread::spawn(move || stdin.write_all(&vec![7; 3 << 20]));
        let mut read = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut read).unwrap();
        written.join().unwrap().unwrap();
        assert!(read == vec![7; 3 << 20]);
        assert!(child.wait().await.unwrap().status.success());
        assert!(child.wait().await.unwrap().status.success(), "the same answer again");
    }

    #[tokio::test]
    async fn the_environment_is_what_was_given_and_nothing_else() {
        let mut child = Command::new("/usr/bin/env").env("PGHOST", "h").stdout_pipe().spawn().await.unwrap();
        assert_eq!(text(&mut child), "LC_ALL=C\nPGHOST=h\n");
        child.wait().await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_standard_error_is_kept() {
        let script = "i=0; while [ $i -lt 3000 ]; do echo \"a line of some length, number $i .......\" >&2; i=$((i+1)); done; \
                      printf 'last words \\377' >&2; exit 3";
        let exit = sh(script).spawn().await.unwrap().wait().await.unwrap();
        assert_eq!(exit.status.code(), Some(3));
        assert!(exit.stderr.ends_with("number 2999 .......\nlast words \u{fffd}"), "{}", exit.stderr);
        assert!(exit.stderr.len() <= STDERR_TAIL + 2 && exit.stderr.len() > STDERR_TAIL - 10);
        assert!(!exit.stderr.contains("number 0 "));
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let error = Command::new("/nonexistent/pg_dump").spawn().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn killing_and_dropping_take_the_grandchildren_along() {
        // The grandchild holds standard output: its end is seen when both are gone.
        let mut child = sh("sleep 1000 & echo ready; wait").stdout_pipe().spawn().await.unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 6]).unwrap();
        child.kill();
        assert_eq!(stdout.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(child.wait().await.unwrap().status.signal(), Some(9));

        let mut child = sh("sleep 1000 & echo ready; wait").stdout_pipe().spawn().await.unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0; 6]).unwrap();
        drop(child);
        assert_eq!(stdout.read(&mut [0; 1]).unwrap(), 0);
    }

    #[tokio::test]
    async fn what_a_child_leaves_behind_is_killed_at_its_end() {
        let mut child = sh("sleep 1000 & exit 0").stdout_pipe().spawn().await.unwrap();
        let mut stdout = child.stdout.take().unwrap();
        assert!(child.wait().await.unwrap().status.success());
        assert_eq!(stdout.read(&mut [0; 1]).unwrap(), 0);
    }

    #[tokio::test]
    async fn a_wait_that_was_dropped_can_be_called_again() {
        let mut child = sh("read line; exit 4").stdin_pipe().spawn().await.unwrap();
        let stdin = child.stdin.take();
        assert!(tokio::time::timeout(Duration::from_millis(1), child.wait()).await.is_err());
        drop(stdin);
        assert_eq!(child.wait().await.unwrap().status.code(), Some(4));
    }

    #[test]
    fn children_outlive_the_runtime_thread_that_asked_for_them() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut child = std::thread::scope(|scope| {
            scope.spawn(|| runtime.block_on(sh("read line; exit 5").stdin_pipe().spawn()).unwrap()).join().unwrap()
        });
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"go on\n").unwrap();
        assert_eq!(runtime.block_on(child.wait()).unwrap().status.code(), Some(5));
    }

    /// Runs this very test in a second process, which starts a child and tells its number, and kills that process.
    #[tokio::test]
    async fn the_child_dies_when_we_are_killed() {
        const NAME: &str = "child::tests::the_child_dies_when_we_are_killed";
        if std::env::var_os("HOLDFAST_TEST_INNER").is_some() {
            let mut child = sh("read line").stdin_pipe().spawn().await.unwrap();
            let stdin = child.stdin.take();
            println!("\nchild {}", child.id());
            child.wait().await.unwrap();
            drop(stdin);
            return;
        }
        let mut outer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env("HOLDFAST_TEST_INNER", "1")
            .stdout_pipe()
            .spawn()
            .await
            .unwrap();
        let lines = std::io::BufRead::lines(io::BufReader::new(outer.stdout.take().unwrap()));
        let inner = lines.map(Result::unwrap).find_map(|line| line.strip_prefix("child ").map(str::to_owned)).unwrap();
        let inner = Pid::from_raw(inner.parse().unwrap()).unwrap();
        let ended = readable(pidfd_open(inner, PidfdFlags::empty()).unwrap()).unwrap();
        outer.kill();
        let limit = Duration::from_secs(20);
        let _ = tokio::time::timeout(limit, ended.readable()).await.expect("the child lives on").unwrap();
    }
}
