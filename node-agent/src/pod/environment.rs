//! The environment of a container: who may set which variable, and in which order the last word is had.
//!
//! Later wins: image → service variables → `envFrom` in list order → `env` in list order. Service variables never override
//! a name that the container defines. HOSTNAME, PATH and HOME are what a user expects to find, and only fill gaps.
//! Objects come in through [`Sources`]; which ones are needed is asked first, so nothing here waits.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret};

use super::expand::expand;
use super::fields::{self, Facts, FieldError};

/// The path that a container has when neither the image nor the pod says one.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The objects that the pod's namespace has under the names that were asked for; an absent entry means "does not exist".
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
}

/// Names of objects that something refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvironmentError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("{0}")]
    Field(#[from] FieldError),
}

/// The objects that a container's environment reads.
pub fn names(container: &Container) -> Names {
    let mut names = Names::default();
    for source in container.env_from.iter().flatten() {
        names.config_maps.extend(source.config_map_ref.as_ref().map(|reference| reference.name.clone()));
        names.secrets.extend(source.secret_ref.as_ref().map(|reference| reference.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        names.config_maps.extend(from.config_map_key_ref.as_ref().map(|reference| reference.name.clone()));
        names.secrets.extend(from.secret_key_ref.as_ref().map(|reference| reference.name.clone()));
    }
    names
}

/// Everything that a container's environment depends on.
pub struct Inputs<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: &'a [String],
    pub services: &'a [(String, String)],
    pub sources: &'a Sources,
    pub facts: &'a Facts,
    pub hostname: &'a str,
    /// The home directory in the image's /etc/passwd of the user that the container runs as.
    pub home: Option<&'a str>,
}

/// The variables in a fixed order: image, pod, then services; a name occurs once, with its last value.
pub fn build(inputs: &Inputs<'_>) -> Result<Vec<(String, String)>, EnvironmentError> {
    let own = of_the_container(inputs)?;
    let mut out = Variables::default();
    for (key, value) in inputs.image.iter().filter_map(|entry| entry.split_once('=')) {
        out.set(key, value.to_owned());
    }
    out.set("HOSTNAME", inputs.hostname.to_owned());
    if inputs.container.tty == Some(true) {
        out.fill("TERM", "xterm");
    }
    for (key, value) in inputs.services.iter().filter(|(key, _)| own.get(key).is_none()) {
        out.set(key, value.clone());
    }
    for (key, value) in own.entries {
        out.set(&key, value);
    }
    out.fill("PATH", PATH_DEFAULT);
    out.fill("HOME", inputs.home.unwrap_or("/"));
    Ok(out.entries)
}

fn of_the_container(inputs: &Inputs<'_>) -> Result<Variables, EnvironmentError> {
    let mut own = Variables::default();
    for source in inputs.container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match inputs.sources.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        own.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvironmentError::NoConfigMap(reference.name.clone())),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match inputs.sources.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        own.set(&format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(EnvironmentError::NoSecret(reference.name.clone())),
            }
        }
    }
    for variable in inputs.container.env.iter().flatten() {
        if let Some(value) = value_of(inputs, &own, variable)? {
            own.set(&variable.name, value);
        }
    }
    Ok(own)
}

/// The value of one entry of `env`; `None` when its optional source does not exist.
fn value_of(inputs: &Inputs<'_>, own: &Variables, variable: &EnvVar) -> Result<Option<String>, EnvironmentError> {
    if let Some(text) = variable.value.as_deref().filter(|text| !text.is_empty()) {
        let service = |name: &str| inputs.services.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        return Ok(Some(expand(text, |name| own.get(name).or_else(|| service(name)))));
    }
    match &variable.value_from {
        Some(from) => of_source(inputs, from),
        None => Ok(Some(String::new())),
    }
}

fn of_source(inputs: &Inputs<'_>, from: &EnvVarSource) -> Result<Option<String>, EnvironmentError> {
    let namespace = || inputs.pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(selector) = &from.field_ref {
        return Ok(Some(fields::field(inputs.pod, inputs.facts, selector)?));
    }
    if let Some(selector) = &from.resource_field_ref {
        return Ok(Some(fields::resource(inputs.pod, inputs.facts, Some(inputs.container), selector)?));
    }
    if let Some(selector) = &from.config_map_key_ref {
        let (name, key, optional) = (&selector.name, &selector.key, selector.optional == Some(true));
        let Some(map) = inputs.sources.config_maps.get(name) else {
            return if optional { Ok(None) } else { Err(EnvironmentError::NoConfigMap(name.clone())) };
        };
        return match map.data.as_ref().and_then(|data| data.get(key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(EnvironmentError::NoKey {
                kind: "ConfigMap",
                namespace: namespace(),
                name: name.clone(),
                key: key.clone(),
            }),
        };
    }
    if let Some(selector) = &from.secret_key_ref {
        let (name, key, optional) = (&selector.name, &selector.key, selector.optional == Some(true));
        let Some(secret) = inputs.sources.secrets.get(name) else {
            return if optional { Ok(None) } else { Err(EnvironmentError::NoSecret(name.clone())) };
        };
        return match secret.data.as_ref().and_then(|data| data.get(key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(EnvironmentError::NoKey {
                kind: "Secret",
                namespace: namespace(),
                name: name.clone(),
                key: key.clone(),
            }),
        };
    }
    Ok(Some(String::new()))
}

#[derive(Default)]
struct Variables {
    entries: Vec<(String, String)>,
}

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: String) {
        match self.entries.iter_mut().find(|(key, _)| key == name) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((name.to_owned(), value)),
        }
    }

    fn fill(&mut self, name: &str, value: &str) {
        if self.get(name).is_none() {
            self.entries.push((name.to_owned(), value.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn sources() -> Sources {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"color": "blue", "A": "map"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"token": "c2VjcmV0"}})).unwrap();
        Sources { config_maps: BTreeMap::from([("m".into(), map)]), secrets: BTreeMap::from([("s".into(), secret)]) }
    }

    fn check(container: serde_json::Value, expected: Expect) {
        let mut container = container;
        container["name"] = json!("c");
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        let services = [("DB_PORT".to_owned(), "tcp://10.0.0.1:1".to_owned()), ("A".to_owned(), "service".to_owned())];
        let (sources, facts) = (sources(), Facts::default());
        let image = ["PATH=/bin".to_owned(), "A=image".to_owned()];
        let inputs = Inputs {
            pod: &pod,
            container: &container,
            image: &image,
            services: &services,
            sources: &sources,
            facts: &facts,
            hostname: "p",
            home: Some("/root"),
        };
        let text = match build(&inputs) {
            Ok(variables) => variables.into_iter().map(|(key, value)| format!("{key}={value}\n")).collect(),
            Err(error) => format!("error: {error}\n"),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn later_sources_win_over_earlier_ones() {
        check(
            json!({"envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "S_", "secretRef": {"name": "s"}}],
                   "env": [{"name": "A", "value": "$(A)+own"}, {"name": "B", "value": "$(DB_PORT) $(C)"}, {"name": "C", "value": "c"},
                           {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            expect![[r#"
                PATH=/bin
                A=map+own
                HOSTNAME=p
                DB_PORT=tcp://10.0.0.1:1
                color=blue
                S_token=secret
                B=tcp://10.0.0.1:1 $(C)
                C=c
                NAME=p
                HOME=/root
            "#]],
        );
    }

    #[test]
    fn what_is_missing_and_needed_is_named() {
        let key_of = |kind: &str, name: &str, key: &str, optional: bool| json!({"env": [{"name": "X", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]});
        check(
            json!({"envFrom": [{"configMapRef": {"name": "none"}}]}),
            expect![[r#"
            error: configmap "none" not found
        "#]],
        );
        check(
            key_of("secretKeyRef", "none", "k", false),
            expect![[r#"
            error: secret "none" not found
        "#]],
        );
        check(
            key_of("configMapKeyRef", "m", "k", false),
            expect![[r#"
            error: couldn't find key k in ConfigMap ns/m
        "#]],
        );
        check(
            key_of("configMapKeyRef", "m", "k", true),
            expect![[r#"
            PATH=/bin
            A=service
            HOSTNAME=p
            DB_PORT=tcp://10.0.0.1:1
            HOME=/root
        "#]],
        );
    }
}
