//! Services in live form: what a call to one needs, made from the snapshot and taken over from table to table.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use dodai_core::failure::{Failure, Kind};
use dodai_core::id::{BaseId, ServiceId};
use dodai_core::snapshot;
use dodai_log::Logging;

use crate::affinity::Session;
use crate::attempt::{self, Budget};
use crate::balance::Balancer;
use crate::filter::{self, Filter};
use crate::hedge::Hedges;
use crate::hosts::{self, Hosts};
use crate::index::Rules;
use crate::local::Locals;
use crate::logging;
use crate::overload::Overload;
use crate::route::{BadRule, Rule};
use crate::standing::Judge;
use crate::tally::Tally;

pub use crate::pick::Wish;
pub use crate::place::{Attempt, Endpoint, Place, nanos, now_nanos};
pub use crate::standing::Verdict;

/// A service in live form.
pub struct Service {
    /// What it is.
    pub spec: snapshot::Service,
    /// Its id as a metric label.
    pub label: Arc<str>,
    /// Rules for calls from inside the mesh.
    pub rules: Rules,
    /// What is checked on arrival.
    pub inbound: Vec<Filter>,
    /// How its calls are logged where no rule says so.
    pub logging: Option<Arc<Logging>>,
    /// What retries may cost.
    pub budget: Arc<Budget>,
    /// How many calls it bears.
    pub overload: Option<Arc<Overload>>,
    /// What hedged calls have taught; nothing before the first.
    hedges: OnceLock<Arc<Hedges>>,
    /// The cookie that keeps a client's calls together.
    pub session: Option<Session>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) balancer: Arc<Balancer>,
    /// Whether some endpoints are only for when others fail.
    pub(crate) has_tiers: bool,
    pub(crate) judge: Arc<Judge>,
    endpoints_source: Option<Arc<snapshot::Resource>>,
    /// Whether each address of some name is an endpoint.
    named: bool,
    service_source: Arc<snapshot::Resource>,
}

impl Service {
    /// Compiles a service with its endpoints, taking over from `old` what stayed.
    pub fn compile(
        spec: &snapshot::Service,
        service_source: &Arc<snapshot::Resource>,
        endpoints: Option<(&snapshot::Endpoints, &Arc<snapshot::Resource>)>,
        old: Option<&Arc<Service>>,
        base: &BaseId,
        locals: &Locals,
        hosts: &Hosts,
    ) -> Result<Arc<Service>, BadRule> {
        let endpoints_source = endpoints.map(|(_, source)| source.clone());
        let same_endpoints =
            old.filter(|old| old.endpoints_source == endpoints_source && !old.is_elsewhere(hosts));
        if let Some(old) = same_endpoints.filter(|old| old.service_source == *service_source) {
            return Ok(old.clone());
        }
        let known: &[Arc<Endpoint>] = old.map_or(&[], |old| &old.endpoints);
        // One of which only a weight or a label is told anew stays who it is.
        let reuse = |source: &snapshot::Endpoint, of_name: Option<IpAddr>| {
            let same = known.iter().find(|endpoint| endpoint.is_of(source, of_name)).cloned();
            same.or_else(|| known.iter().find_map(|endpoint| endpoint.retold(source, of_name)).map(Arc::new))
        };
        let list = endpoints.map_or(&[] as &[_], |(endpoints, _)| &endpoints.list);
        let live = |(one, of_name): (&snapshot::Endpoint, Option<IpAddr>)| {
            let new = || Endpoint::new(one, of_name, base, locals).map(Arc::new);
            reuse(one, of_name).or_else(new)
        };
        let endpoints: Vec<Arc<Endpoint>> = hosts.spread(list).into_iter().filter_map(live).collect();
        let same_tables = same_endpoints.filter(|old| old.spec.balance == spec.balance);
        let balancer = same_tables.map(|old| old.balancer.clone());
        let rules = old.into_iter().flat_map(|old| old.rules.list());
        Ok(Arc::new(Service {
            label: old.map_or_else(|| spec.id.to_string().into(), |old| old.label.clone()),
            rules: Rule::compile_all(&spec.rules, rules)?,
            inbound: filter::compile(
                &spec.id.to_string(),
                &spec.inbound,
                old.map_or(&[], |old| &old.inbound),
            )?,
            logging: logging::compile(&spec.id.to_string(), &spec.policy)?,
            budget: old.map(|old| old.budget.clone()).unwrap_or_default(),
            overload: spec.concurrency.as_ref().map(|wanted| {
                let same = old.and_then(|old| old.overload.as_ref()).filter(|known| known.is_of(wanted));
                same.cloned().unwrap_or_else(|| Arc::new(Overload::new(wanted)))
            }),
            hedges: old.map(|old| old.hedges.clone()).unwrap_or_default(),
            session: spec.sticky.as_ref().map(Session::new),
            balancer: balancer.unwrap_or_else(|| Arc::new(Balancer::new(&spec.balance, &endpoints))),
            has_tiers: endpoints.windows(2).any(|pair| pair[0].tier != pair[1].tier),
            judge: old.map(|old| old.judge.clone()).unwrap_or_default(),
            endpoints,
            named: list.iter().any(|one| hosts::host(one).is_some()),
            endpoints_source,
            service_source: service_source.clone(),
            spec: spec.clone(),
        }))
    }

    /// What it was told of its endpoints.
    fn told(&self) -> &[snapshot::Endpoint] {
        match self.endpoints_source.as_deref() {
            Some(snapshot::Resource::Endpoints(endpoints)) => &endpoints.list,
            Some(_) | None => &[],
        }
    }

    /// Hosts of which each address is an endpoint.
    pub fn hosts(&self) -> impl Iterator<Item = Arc<str>> {
        self.told().iter().filter_map(hosts::host)
    }

    /// Whether it has such names.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// Whether its names are not where its endpoints are any more.
    pub fn is_elsewhere(&self, hosts: &Hosts) -> bool {
        self.named && !hosts::are_there(&self.endpoints, self.told(), hosts)
    }

    /// The same where its names are now, if that is elsewhere. What is known of addresses that stay goes on.
    pub fn spread(
        self: &Arc<Service>,
        base: &BaseId,
        locals: &Locals,
        hosts: &Hosts,
    ) -> Option<Arc<Service>> {
        if !self.is_elsewhere(hosts) {
            return None;
        }
        let source = self.endpoints_source.as_ref()?;
        let snapshot::Resource::Endpoints(endpoints) = source.as_ref() else { return None };
        let endpoints = Some((endpoints, source));
        Service::compile(&self.spec, &self.service_source, endpoints, Some(self), base, locals, hosts).ok()
    }

    /// Its id.
    pub fn id(&self) -> &ServiceId {
        &self.spec.id
    }

    /// Whether a caller is taken as far as that hangs on mutual TLS, which `secure` says that it spoke.
    pub fn admits(&self, secure: bool, intercepted: bool) -> Result<(), Failure> {
        // Who intercepts wants plain callers, unless somebody said otherwise.
        let plain = if intercepted { !self.spec.strict } else { self.spec.plain };
        if secure || plain {
            return Ok(());
        }
        let app = &self.spec.id.owner;
        let text = format!(
            "{app} takes calls over mutual TLS only; call it through a base or a gateway, or set `mtls: permissive`"
        );
        Err(Failure::new(Kind::Denied, text))
    }

    /// Whether one of its instances runs on this base.
    pub fn is_local(&self) -> bool {
        self.endpoints.iter().any(|endpoint| matches!(endpoint.place, Place::Local(_)))
    }

    /// Whether one of its instances runs on another base.
    pub fn is_remote(&self) -> bool {
        self.endpoints.iter().any(|endpoint| matches!(endpoint.place, Place::Mesh { .. }))
    }

    /// An endpoint answered so; the head came at `at` on the clock of [`now_nanos`].
    pub fn answered(&self, attempt: &Attempt, verdict: Verdict, at: u64) {
        if self.spec.breaker.counts_answers && verdict.is_no_success() {
            attempt.failed(&self.spec.breaker);
        } else {
            attempt.succeeded(at);
        }
        if let Some(overload) = &self.overload {
            overload.learn(attempt.took(at));
        }
        if let Some(rules) = &self.spec.health.outliers {
            self.judge.judge(rules, &self.endpoints, &attempt.endpoint, verdict, at);
        }
    }

    /// A try ended with a failure of this kind, which may not be the endpoint's.
    pub fn broke(&self, attempt: Attempt, kind: Kind) {
        if attempt::counts(kind) {
            self.failed(&attempt, Verdict::Broken);
        }
    }

    /// An endpoint failed.
    pub fn failed(&self, attempt: &Attempt, verdict: Verdict) {
        attempt.failed(&self.spec.breaker);
        if let Some(rules) = &self.spec.health.outliers {
            self.judge.judge(rules, &self.endpoints, &attempt.endpoint, verdict, now_nanos());
        }
    }

    /// What hedged calls have taught.
    pub fn hedges(&self) -> &Arc<Hedges> {
        self.hedges.get_or_init(Arc::default)
    }

    /// What was counted of its calls, apart from any rule.
    pub fn tallies(&self) -> impl Iterator<Item = &Tally> {
        let overload = self.overload.as_ref().map(|overload| &overload.tally);
        overload.into_iter().chain(self.hedges.get().map(|hedges| &hedges.tally))
    }

    /// Its endpoints.
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }
}
