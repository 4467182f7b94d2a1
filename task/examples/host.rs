//! A host of one's own worker: starts the program in its argument, asks it to greet each name that comes on standard
//! input, and removes it again. Kill the worker in between: the next name is greeted all the same.

mod greeter;

use std::error::Error;
use std::path::PathBuf;

use greeter::{GreeterClient, GreeterRequest, GreeterResponse};
use task_host::client::{self, Client};
use task_host::journal::Journal;
use task_host::record::Level;
use task_host::run_dir::{Base, RunDir, SOCKET};
use task_host::screen::Screen;
use task_host::socket::Socket;
use task_host::spawn::WorkerSpec;
use task_host::supervisor::{Restart, Supervisor};
use tokio::task::spawn_blocking;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args_os().nth(1).ok_or("usage: host WORKER")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(host(program.into()))
}

async fn host(program: PathBuf) -> Result<(), Box<dyn Error>> {
    // A private directory for the socket; what runs that were killed left behind goes first.
    let base = Base::open(std::env::var_os("TASK_RUNTIME_DIR").map(PathBuf::from).as_deref())?;
    base.sweep();
    let directory = RunDir::create(base)?;
    let socket = Socket::bind(directory.fd(), &directory.path(), SOCKET)?;

    // What the worker writes and what the supervisor says goes to the journal, and warnings to standard error.
    let journal = Journal::new(directory.run(), Screen::new(Level::Warn, false));
    tracing_subscriber::registry().with(journal.layer()).try_init()?;
    let supervisor = Supervisor::start(WorkerSpec::new(program), socket, Restart::SERVICE, journal);

    // A greeting may be asked for twice, so it is asked for again when the worker dies in between.
    let client = Client::<GreeterRequest, GreeterResponse>::new(&supervisor, Vec::new(), |_| true);
    let greeter = GreeterClient::from(client);
    while let Some(name) = spawn_blocking(|| std::io::stdin().lines().next()).await? {
        println!("{}", greeter.greet(client::context(rand::random(), None), name?).await?);
    }

    supervisor.stop().await;
    Ok(directory.remove()?)
}
