// The shell: who is let in, the navigation, what stands above every page, and which page that is.
import { Component, lazy, type ReactNode, Suspense, useEffect, useState, useSyncExternalStore } from "react";
import { listen, silence, useApi, useConnection, useFailure } from "./api/live";
import { end, onSession, sessionState } from "./api/session";
import { decoded } from "./format";
import { AppPage } from "./pages/app";
import { Apps, Home } from "./pages/home";
import { Login } from "./pages/login";
import { Empty, Toast } from "./parts/basic";
import { Icon, type IconName } from "./parts/icon";
import { Palette } from "./parts/palette";
import { A, usePath } from "./route";
import { setLanguage, setTheme, useIsDark, useLanguage } from "./settings";
import { t } from "./text/text";

// What not everybody opens comes when it is opened.
const Calls = lazy(() => import("./pages/calls").then((page) => ({ default: page.Calls })));
const Topology = lazy(() => import("./pages/topology").then((page) => ({ default: page.Topology })));
const Documents = lazy(() => import("./pages/documents").then((page) => ({ default: page.Documents })));
const Components = lazy(() => import("./pages/components").then((page) => ({ default: page.Components })));
const Jobs = lazy(() => import("./pages/jobs").then((page) => ({ default: page.Jobs })));
const Bases = lazy(() => import("./pages/bases").then((page) => ({ default: page.Bases })));

const NAVIGATION: { to: string; icon: IconName; name: Parameters<typeof t>[0] }[] = [
  { to: "/", icon: "home", name: "Home" },
  { to: "/apps", icon: "apps", name: "Apps" },
  { to: "/topology", icon: "topology", name: "Topology" },
  { to: "/calls", icon: "calls", name: "Calls" },
  { to: "/components", icon: "components", name: "Components" },
  { to: "/jobs", icon: "jobs", name: "Jobs" },
  { to: "/documents", icon: "documents", name: "Documents" },
  { to: "/bases", icon: "bases", name: "Bases" },
];

export function Console() {
  const state = useSyncExternalStore(onSession, sessionState);
  const language = useLanguage();
  useEffect(() => {
    if (state !== "open") return;
    listen();
    return silence;
  }, [state]);
  if (state === "unknown") return null;
  return <Mishap key={language}>{state === "closed" ? <Login /> : <Shell />}</Mishap>;
}

function page(path: string): ReactNode {
  const parts = path.split("/").filter(Boolean).map(decoded);
  const [first, second, third, ...rest] = parts;
  switch (first) {
    case undefined:
      return <Home />;
    case "apps":
      if (second && third) return <AppPage key={`${second}/${third}`} namespace={second} name={third} tab={rest[0] ?? "overview"} />;
      return <Apps />;
    case "calls":
      return <Calls />;
    case "topology":
      return <Topology />;
    case "documents":
      return <Documents kind={second} namespace={third} name={rest[0]} />;
    case "components":
      return <Components namespace={second} name={third} />;
    case "jobs":
      return <Jobs />;
    case "bases":
      return <Bases />;
    default:
      return (
        <Empty title={t("There is no such page")}>
          <A to="/" className="link">
            {t("Home")}
          </A>
        </Empty>
      );
  }
}

function Shell() {
  const path = usePath();
  const [searching, setSearching] = useState(false);
  const connection = useConnection();
  const failure = useFailure();
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key.toLowerCase() !== "k" || !(event.metaKey || event.ctrlKey)) return;
      event.preventDefault();
      setSearching((open) => !open);
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  useEffect(() => {
    const first = NAVIGATION.find((one) => one.to !== "/" && path.startsWith(one.to));
    document.title = `${first ? t(first.name) : t("Home")} · Dodai`;
  }, [path]);
  return (
    <div className="shell">
      <a className="skip" href="#content">
        {t("Skip to the content")}
      </a>
      <Side path={path} />
      <div className="main">
        <header className="top">
          <button type="button" className="search-button" onClick={() => setSearching(true)} aria-keyshortcuts="Control+K Meta+K">
            <Icon name="search" size={14} />
            <span>{t("Search")}</span>
            <kbd>{navigator.platform.startsWith("Mac") ? "⌘K" : "Ctrl K"}</kbd>
          </button>
          <span className="grow" />
          <Choices />
        </header>
        {connection === "away" && (
          <div className="banner" role="alert">
            <Icon name="warning" />
            {t("The server does not answer. What is shown is from before; trying again…")}
          </div>
        )}
        {connection !== "away" && failure && (
          <div className="banner" role="alert">
            <Icon name="warning" />
            {t("Some of what is shown is from before: {why}", { why: failure.refusal.message })}
          </div>
        )}
        <main className="content" id="content" tabIndex={-1}>
          <Mishap key={path}>
            <Suspense fallback={<div className="empty">{t("Loading…")}</div>}>{page(path)}</Suspense>
          </Mishap>
        </main>
      </div>
      {searching && <Palette onClose={() => setSearching(false)} />}
      <Toast />
    </div>
  );
}

function Side({ path }: { path: string }) {
  const status = useApi("status", {}, ["node"]);
  const connection = useConnection();
  return (
    <aside className="side">
      <A to="/" className="brand" aria-label="Dodai">
        <img src="/favicon.svg" alt="" />
        <span className="word">Dodai</span>
      </A>
      <nav aria-label={t("Pages")}>
        <ul>
          {NAVIGATION.map(({ to, icon, name }) => (
            <li key={to}>
              <A to={to} title={t(name)} {...((to === "/" ? path === "/" : path.startsWith(to)) ? { "aria-current": "page" as const } : {})}>
                <Icon name={icon} />
                <span className="word">{t(name)}</span>
              </A>
            </li>
          ))}
        </ul>
      </nav>
      <div className="foot">
        <div className="row">
          <span className={`dot ${connection === "open" ? "good" : "warn"}`} aria-hidden="true" />
          <span>{connection === "open" ? t("Live") : t("Connecting…")}</span>
          <span className="grow" />
          {status.value && <span className="num">{status.value.version}</span>}
        </div>
        {status.value?.folder && (
          <div className="clip" title={status.value.folder}>
            {status.value.folder.split("/").pop()}
          </div>
        )}
      </div>
    </aside>
  );
}

function Choices() {
  const dark = useIsDark();
  const language = useLanguage();
  return (
    <>
      <button type="button" className="button quiet" onClick={() => setLanguage(language === "en" ? "zh" : "en")} lang={language === "en" ? "zh" : "en"}>
        {language === "en" ? "中文" : "English"}
      </button>
      <button type="button" className="button quiet icon" onClick={() => setTheme(dark ? "light" : "dark")} aria-label={dark ? t("Light") : t("Dark")} title={dark ? t("Light") : t("Dark")}>
        <Icon name={dark ? "sun" : "moon"} />
      </button>
      <button type="button" className="button quiet icon" onClick={() => void end()} aria-label={t("Log out")} title={t("Log out")}>
        <Icon name="out" />
      </button>
    </>
  );
}

/** A page that fails takes nothing else with it. */
class Mishap extends Component<{ children: ReactNode }, { error: Error | null }> {
  override state = { error: null as Error | null };

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  override render() {
    if (!this.state.error) return this.props.children;
    return (
      <div className="notice bad" role="alert">
        <Icon name="warning" />
        <div>
          {t("This page failed. The others go on.")}
          <div className="mono">{this.state.error.message}</div>
        </div>
      </div>
    );
  }
}
