// Search over everything that has a page, from every page.
import { type KeyboardEvent, useEffect, useId, useMemo, useRef, useState } from "react";
import { useApi } from "../api/live";
import { end } from "../api/session";
import { short } from "../format";
import { go } from "../route";
import { isDark, setTheme } from "../settings";
import { t } from "../text/text";
import { Icon, type IconName } from "./icon";

interface Found {
  icon: IconName;
  name: string;
  kind: string;
  run: () => void;
}

const MOST = 50;

/** How well a name fits what was typed; `null` if it does not. Letters must come in order; a run from the start is best. */
export function fit(name: string, typed: string): number | null {
  const [text, wanted] = [name.toLowerCase(), typed.toLowerCase().trim()];
  if (!wanted) return 0;
  const at = text.indexOf(wanted);
  if (at >= 0) return at === 0 ? 0 : 1 + at / 100;
  let from = 0;
  for (const letter of wanted) {
    from = text.indexOf(letter, from) + 1;
    if (from === 0) return null;
  }
  return 10 + text.length / 100;
}

export function Palette({ onClose }: { onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [typed, setTyped] = useState("");
  const [chosen, setChosen] = useState(0);
  const list = useId();
  const kinds = useApi("kinds", {}, ["documents"]);
  useEffect(() => {
    const open = dialog.current;
    open?.showModal();
    return () => open?.close();
  }, []);
  const all = useMemo((): Found[] => {
    const pages: Found[] = [
      { icon: "home", name: t("Home"), kind: t("Page"), run: () => go("/") },
      { icon: "apps", name: t("Apps"), kind: t("Page"), run: () => go("/apps") },
      { icon: "topology", name: t("Topology"), kind: t("Page"), run: () => go("/topology") },
      { icon: "calls", name: t("Calls"), kind: t("Page"), run: () => go("/calls") },
      { icon: "components", name: t("Components"), kind: t("Page"), run: () => go("/components") },
      { icon: "jobs", name: t("Jobs"), kind: t("Page"), run: () => go("/jobs") },
      { icon: "documents", name: t("Documents"), kind: t("Page"), run: () => go("/documents") },
      { icon: "bases", name: t("Bases"), kind: t("Page"), run: () => go("/bases") },
      { icon: "sun", name: t("Switch between light and dark"), kind: t("Action"), run: () => setTheme(isDark() ? "light" : "dark") },
      { icon: "out", name: t("Log out"), kind: t("Action"), run: () => void end() },
    ];
    const documents = (kinds.value?.items ?? []).flatMap((kind) =>
      kind.documents.flatMap((key): Found[] => {
        const [, namespace = "", name = ""] = key.split("/");
        const id = short(`${namespace}/${name}`);
        const document: Found = { icon: "documents", name: id, kind: kind.kind, run: () => go(`/documents/${key.split("/").map(encodeURIComponent).join("/")}`) };
        if (kind.kind === "Revision") return [];
        if (kind.kind !== "App") return [document];
        const app = `/apps/${encodeURIComponent(namespace)}/${encodeURIComponent(name)}`;
        return [
          { icon: "apps", name: id, kind: t("App"), run: () => go(app) },
          { icon: "terminal", name: `${id} ${t("logs")}`, kind: t("App"), run: () => go(`${app}/logs`) },
          { icon: "calls", name: `${id} ${t("calls")}`, kind: t("App"), run: () => go(`/calls?app=${encodeURIComponent(`${namespace}/${name}`)}`) },
          document,
        ];
      }),
    );
    return [...pages, ...documents];
  }, [kinds.value]);
  const found = all
    .map((one) => ({ one, score: fit(`${one.name} ${one.kind}`, typed) }))
    .filter((row): row is { one: Found; score: number } => row.score !== null)
    .sort((a, b) => a.score - b.score)
    .slice(0, MOST)
    .map(({ one }) => one);
  const pick = (one: Found | undefined) => {
    if (!one) return;
    onClose();
    one.run();
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown") setChosen((at) => Math.min(found.length - 1, at + 1));
    else if (event.key === "ArrowUp") setChosen((at) => Math.max(0, at - 1));
    else if (event.key === "Enter") pick(found[chosen]);
    else return;
    event.preventDefault();
  };
  return (
    <dialog ref={dialog} className="palette" aria-label={t("Search")} onCancel={onClose} onClose={onClose} onClick={(event) => event.target === dialog.current && onClose()}>
      <input
        value={typed}
        placeholder={t("Search apps, documents, pages…")}
        aria-label={t("Search")}
        role="combobox"
        aria-expanded="true"
        aria-controls={list}
        aria-activedescendant={`${list}-${chosen}`}
        autoFocus
        onChange={(event) => {
          setTyped(event.target.value);
          setChosen(0);
        }}
        onKeyDown={onKey}
      />
      <ul id={list} role="listbox" aria-label={t("Results")}>
        {found.map((one, at) => (
          <li key={`${one.kind} ${one.name}`} id={`${list}-${at}`} role="option" aria-selected={at === chosen} onClick={() => pick(one)} onMouseMove={() => setChosen(at)}>
            <Icon name={one.icon} />
            <span className="grow clip">{one.name}</span>
            <span className="dim">{one.kind}</span>
          </li>
        ))}
      </ul>
      {found.length === 0 && <div className="empty">{t("Nothing found")}</div>}
    </dialog>
  );
}
