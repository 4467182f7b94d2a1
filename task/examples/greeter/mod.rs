//! A service of one's own: any tarpc trait will do.

/// Greets people.
#[tarpc::service]
pub trait Greeter {
    /// A greeting for whoever has this name, and the process that gave it.
    async fn greet(name: String) -> String;
}
