//! Which kinds the API serves, asked of the API like any client does.

use kube::Client;
use kube::core::discovery::verbs;
use kube::discovery::{Discovery, Scope};

use crate::controllers::action::Resource;

/// A served kind and what can be done to it.
#[derive(Clone, Debug)]
pub struct Served {
    pub resource: Resource,
    /// Can be listed and watched.
    pub followed: bool,
    /// Can be listed and deleted.
    pub deletable: bool,
}

/// Events come and go by themselves and own nothing: following them would cost much and tell nothing.
fn is_events(plural: &str) -> bool {
    plural == "events"
}

/// All kinds, each in its preferred version.
pub async fn discover(client: &Client) -> kube::Result<Vec<Served>> {
    let discovery = Discovery::new(client.clone()).run().await?;
    let mut all = Vec::new();
    for group in discovery.groups() {
        for (kind, capabilities) in group.recommended_resources() {
            let resource = Resource {
                group: kind.group.into(),
                version: kind.version.into(),
                kind: kind.kind.into(),
                namespaced: capabilities.scope == Scope::Namespaced,
                plural: kind.plural.clone().into(),
            };
            let can = |verb: &str| capabilities.supports_operation(verb);
            all.push(Served {
                followed: can(verbs::LIST) && can(verbs::WATCH) && !is_events(&kind.plural),
                deletable: can(verbs::LIST)
                    && can(verbs::DELETE)
                    && (resource.group.is_empty() || !is_events(&kind.plural)),
                resource,
            });
        }
    }
    all.sort_by(|a, b| a.resource.cmp(&b.resource));
    Ok(all)
}
