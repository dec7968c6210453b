// What a person has chosen for this browser: light or dark, and the language.
import { useSyncExternalStore } from "react";

export type Theme = "system" | "light" | "dark";
export type Language = "en" | "zh";

const listeners = new Set<() => void>();

function read<T extends string>(name: string, allowed: readonly T[], otherwise: T): T {
  const found = localStorage.getItem(name) as T | null;
  return found && allowed.includes(found) ? found : otherwise;
}

let theme: Theme = read("dodai-theme", ["system", "light", "dark"], "system");
let language: Language = read("dodai-language", ["en", "zh"], navigator.language.startsWith("zh") ? "zh" : "en");

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

export const isDark = () => theme === "dark" || (theme === "system" && prefersDark.matches);

export function applyTheme() {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  document.documentElement.lang = language;
}

function tell() {
  applyTheme();
  for (const listener of listeners) listener();
}

prefersDark.addEventListener("change", tell);

function subscribe(listener: () => void) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const useTheme = () => useSyncExternalStore(subscribe, () => theme);
export const useIsDark = () => useSyncExternalStore(subscribe, isDark);
export const useLanguage = () => useSyncExternalStore(subscribe, () => language);
export const currentLanguage = () => language;

export function setTheme(next: Theme) {
  theme = next;
  localStorage.setItem("dodai-theme", next);
  tell();
}

export function setLanguage(next: Language) {
  language = next;
  localStorage.setItem("dodai-language", next);
  tell();
}
