//! Picking one endpoint of a service for one call.
//!
//! In this order: the endpoint that the call's cookie names; else a tier (the nearest first, the next ones as it fails),
//! a revision by the shares of traffic, and of what is left one by the balance. Endpoints that are left alone or not
//! well are passed over while others are there. Nothing here is locked or waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use dodai_core::failure::{Failure, Kind};
use dodai_core::id::RevisionId;
use dodai_core::snapshot::{Health, Priority};
use dodai_core::trace::random;

use crate::affinity::{Affinity, mixed};
use crate::place::{Endpoint, Place, now_nanos};
use crate::service::Service;

/// What a call asks of its endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Only this revision; otherwise one by the service's traffic shares.
    pub revision: Option<&'a RevisionId>,
    /// Only endpoints with these labels.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// What ties it to other calls.
    pub affinity: Affinity,
    /// Endpoints that were tried already; one of them only if nothing else is left.
    pub tried: &'a [u64],
    /// Only instances of this base, for calls that arrive from elsewhere.
    pub local_only: bool,
    /// How much it matters.
    pub priority: Option<Priority>,
}

/// One pick.
struct Pick<'a> {
    service: &'a Service,
    wish: &'a Wish<'a>,
    now: u64,
    /// So few are well that it is no longer asked who is.
    panics: bool,
    /// Only this tier.
    tier: Option<u8>,
}

impl Service {
    /// Like [`Service::pick_at`], now.
    pub fn pick(&self, wish: &Wish<'_>) -> Result<Arc<Endpoint>, Failure> {
        self.pick_at(now_nanos(), wish)
    }

    /// Picks an endpoint at `now` on the clock of [`now_nanos`].
    pub fn pick_at(&self, now: u64, wish: &Wish<'_>) -> Result<Arc<Endpoint>, Failure> {
        self.has_room(wish)?;
        if self.spec.health.check.is_some() {
            self.judge.called(now);
        }
        let mut pick = Pick { service: self, wish, now, panics: false, tier: None };
        pick.panics = self.spec.health.panic_percent > 0 && pick.is_panic();
        if let Some(endpoint) = pick.named() {
            return Ok(endpoint.clone());
        }
        if self.has_tiers {
            pick.tier = pick.draw_tier();
        }
        let found = pick.found().map_err(|revision| {
            let name = &self.spec.id.owner.name;
            let text = format!("{name} has no revision {revision}, which is to get this call");
            Failure::new(Kind::NoEndpoint, text)
        })?;
        found.cloned().ok_or_else(|| self.unavailable(now, wish.local_only))
    }

    /// Refuses a call beyond the most that may be under way. Threads that ask at the same moment may each let
    /// one through.
    fn has_room(&self, wish: &Wish<'_>) -> Result<(), Failure> {
        if let Some(overload) = &self.overload {
            let under_way = self.endpoints.iter().map(|one| one.in_flight()).sum();
            let priority = wish.priority.unwrap_or(Priority::Normal);
            overload.admit(priority, under_way, self.spec.id.owner.name.as_str())?;
        }
        let Some(most) = self.spec.breaker.max_requests else { return Ok(()) };
        let under_way: u32 = self.endpoints.iter().map(|one| one.in_flight()).sum();
        if under_way < most {
            return Ok(());
        }
        let name = &self.spec.id.owner.name;
        Err(Failure::new(
            Kind::QueueFull,
            format!("{most} calls to {name} are under way, the most its policy allows"),
        ))
    }

    /// Why nothing could be picked, for the caller.
    fn unavailable(&self, now: u64, local_only: bool) -> Failure {
        let name = &self.spec.id.owner.name;
        let broken = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.is_left_alone(now) || endpoint.standing.is_ejected(now))
            .count();
        let reason = self.endpoints.iter().find_map(|endpoint| match &endpoint.place {
            Place::Local(local) => match &**local.way() {
                crate::local::Way::Closed(reason) => Some(reason.clone()),
                crate::local::Way::Ports(_) | crate::local::Way::Serve(_) => None,
            },
            Place::Mesh { .. } | Place::Address(..) => None,
        });
        match (self.endpoints.len(), broken, reason) {
            (0, _, _) => Failure::new(Kind::NoEndpoint, format!("{name} has no ready instance")),
            (all, broken, _) if broken == all => Failure::new(
                Kind::BreakerOpen,
                format!("{name} failed too often; it is left alone for a moment"),
            ),
            (_, _, Some(reason)) => {
                Failure::new(Kind::NoEndpoint, format!("{name} has no ready instance: {reason}"))
            }
            (_, _, None) if local_only => {
                Failure::new(Kind::NoEndpoint, format!("{name} has no ready instance on this base"))
            }
            (_, _, None) => Failure::new(Kind::NoEndpoint, format!("{name} has no ready instance")),
        }
    }
}

impl<'a> Pick<'a> {
    /// Whether the call may go there, whatever its state. An address outside the mesh is an instance of this base for
    /// those that were on their way to it; a cookie is no way to one.
    fn is_here(&self, endpoint: &Endpoint) -> bool {
        (!self.wish.local_only
            || matches!(endpoint.place, Place::Local(_))
            || self.wish.affinity.meant == Some(endpoint.token))
            && self.wish.labels.is_none_or(|labels| endpoint.has(labels))
            && self.tier.is_none_or(|tier| endpoint.tier == tier)
    }

    fn is_ready(&self, endpoint: &Endpoint) -> bool {
        self.is_here(endpoint)
            && endpoint.is_available(self.now)
            && (self.panics || endpoint.standing.is_good(self.now))
    }

    /// Whether so few are well that calls are better spread over all.
    fn is_panic(&self) -> bool {
        let all = self.service.endpoints.iter().filter(|one| self.is_here(one) && one.is_open());
        let (mut count, mut good) = (0_u64, 0_u64);
        for one in all {
            count += 1;
            good += u64::from(one.standing.is_good(self.now));
        }
        good * 100 < count * u64::from(self.service.spec.health.panic_percent)
    }

    /// The endpoint that the call's client connected to or its cookie names, if the call may go there.
    fn named(&self) -> Option<&'a Arc<Endpoint>> {
        let token = self.wish.affinity.named()?;
        let gets_calls = |endpoint: &Endpoint| match self.wish.revision {
            Some(revision) => endpoint.revision == *revision,
            None => {
                let traffic = &self.service.spec.traffic;
                let has_share =
                    |(revision, share): &(RevisionId, u32)| *revision == endpoint.revision && *share > 0;
                let all = traffic.is_empty() && self.service.spec.absent.is_empty();
                all || traffic.iter().any(has_share)
            }
        };
        self.service.endpoints.iter().find(|endpoint| {
            endpoint.token == token
                && self.is_ready(endpoint)
                && gets_calls(endpoint)
                && !self.wish.tried.contains(&endpoint.id)
                && endpoint.lets_in(self.now, &self.service.spec.breaker)
        })
    }

    /// Draws a tier: calls go to the first as long as enough of it is well, and beyond it as far as it is not.
    fn draw_tier(&self) -> Option<u8> {
        let enough = match self.service.spec.health.spill_below_percent {
            0 => Health::SPILL_BELOW,
            percent => percent,
        };
        // Hundredths of the calls that each tier can take, the nearest first.
        let mut takes: smallvec::SmallVec<[(u8, u32); 4]> = smallvec::SmallVec::new();
        let mut after = None;
        loop {
            let tiers = self.service.endpoints.iter().filter(|one| self.is_here(one)).map(|one| one.tier);
            let Some(tier) = tiers.filter(|tier| after.is_none_or(|after| *tier > after)).min() else {
                break;
            };
            let (mut all, mut ready) = (0_u64, 0_u64);
            for one in self.service.endpoints.iter().filter(|one| one.tier == tier && self.is_here(one)) {
                all += u64::from(one.weight);
                ready += if self.is_ready(one) { u64::from(one.weight) } else { 0 };
            }
            let share = ready * 10_000 / all.max(1) / u64::from(enough);
            takes.push((tier, u32::try_from(share).unwrap_or(100).min(100)));
            after = Some(tier);
            if takes.iter().map(|(_, share)| share).sum::<u32>() >= 100 {
                break;
            }
        }
        let total = takes.iter().map(|(_, share)| share).sum::<u32>().min(100);
        if total == 0 {
            return None;
        }
        let draw = self.wish.affinity.key.map_or_else(random, |key| mixed(key ^ 0x7469_6572));
        let mut point = u32::try_from(draw % u64::from(total)).unwrap_or(0);
        takes.iter().find_map(|(tier, share)| match point.checked_sub(*share) {
            Some(rest) => {
                point = rest;
                None
            }
            None => Some(*tier),
        })
    }

    /// One of those that fit; the revision that was drawn, if nobody has it.
    fn found(&self) -> Result<Option<&'a Arc<Endpoint>>, &'a RevisionId> {
        let service = self.service;
        let chosen = match self.wish.revision {
            Some(revision) => Some(revision),
            None => self.draw_revision()?,
        };
        let fits = |one: &&Arc<Endpoint>| chosen.is_none_or(|revision| one.revision == *revision);
        let ready = |one: &&Arc<Endpoint>| self.is_ready(one) && fits(one);
        let fresh = |one: &&Arc<Endpoint>| ready(one) && !self.wish.tried.contains(&one.id);
        // One that does not let the call in is not ready any more, so this ends.
        loop {
            let found = self.balance(&fresh).or_else(|| self.balance(&ready));
            match found {
                Some(endpoint) if endpoint.lets_in(self.now, &service.spec.breaker) => {
                    return Ok(Some(endpoint));
                }
                Some(_) => {}
                None => break,
            }
        }
        // All are left alone: unless that was asked for, trying is better than refusing.
        let is_open = |one: &&Arc<Endpoint>| self.is_here(one) && one.is_open() && fits(one);
        Ok(if service.spec.breaker.refuses { None } else { self.balance(&is_open) })
    }

    fn balance(&self, fits: &impl Fn(&&Arc<Endpoint>) -> bool) -> Option<&'a Arc<Endpoint>> {
        let service = self.service;
        let key = self.wish.affinity.key;
        let found = service.balancer.pick(&service.endpoints, self.now, key, fits)?;
        let Some(window) = service.spec.health.slow_start.filter(|_| key.is_none()) else {
            return Some(found);
        };
        // One that is new is passed over for another, less and less often.
        if random() % 1000 < found.standing.share(self.now, window) {
            return Some(found);
        }
        let other = |one: &&Arc<Endpoint>| fits(one) && one.id != found.id;
        service.balancer.pick(&service.endpoints, self.now, key, &other).or(Some(found))
    }

    /// Draws a revision by the traffic shares, among those that have an endpoint and those that nobody has; calls of
    /// one key get the same. One that nobody has is an error.
    fn draw_revision(&self) -> Result<Option<&'a RevisionId>, &'a RevisionId> {
        let traffic = &self.service.spec.traffic;
        // What comes from another base has been drawn there.
        let absent = if self.wish.local_only { &[] } else { self.service.spec.absent.as_slice() };
        if traffic.len() < 2 && absent.is_empty() {
            return Ok(traffic.first().map(|(revision, _)| revision).filter(|revision| self.has(revision)));
        }
        let live = || traffic.iter().filter(|(revision, _)| self.has(revision));
        let all = || absent.iter().map(Err).chain(live().map(Ok));
        let weight = |one: &Result<&(RevisionId, u32), &(RevisionId, u32)>| match one {
            Ok((_, weight)) | Err((_, weight)) => u64::from(*weight),
        };
        let total: u64 = all().map(|one| weight(&one)).sum();
        let draw = || self.wish.affinity.key.map_or_else(random, mixed);
        let mut point = if total == 0 { return Ok(None) } else { draw() % total };
        for one in all() {
            match point.checked_sub(weight(&one)) {
                Some(rest) => point = rest,
                None => return one.map(|(revision, _)| Some(revision)).map_err(|(revision, _)| revision),
            }
        }
        Ok(None)
    }

    fn has(&self, revision: &RevisionId) -> bool {
        self.service.endpoints.iter().any(|one| one.revision == *revision && self.is_ready(one))
    }
}
