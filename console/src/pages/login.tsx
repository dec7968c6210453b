// The door: the link that the server printed opens it by itself; here its token is pasted.
import { useState } from "react";
import { begin } from "../api/session";
import { Command } from "../parts/basic";
import { setLanguage, useLanguage } from "../settings";
import { t } from "../text/text";

export function Login() {
  const [token, setToken] = useState("");
  const [error, setError] = useState<string | null>(null);
  const language = useLanguage();
  return (
    <main className="login">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void begin(token).then(setError);
        }}
      >
        <div className="spread">
          <div className="brand">
            <img src="/favicon.svg" alt="" width={24} height={24} />
            <h1>Dodai</h1>
          </div>
          <button type="button" className="button quiet" onClick={() => setLanguage(language === "en" ? "zh" : "en")} lang={language === "en" ? "zh" : "en"}>
            {language === "en" ? "中文" : "English"}
          </button>
        </div>
        <p className="dim">{t("Open the link that this prints:")}</p>
        <Command text="dodai console" />
        <label className="field">
          <span>{t("Or paste the token")}</span>
          <input className="input" type="password" autoComplete="off" value={token} onChange={(event) => setToken(event.target.value)} placeholder="dodai-api-…" autoFocus />
        </label>
        {error && (
          <div className="notice bad" role="alert">
            {error}
          </div>
        )}
        <button type="submit" className="button primary" disabled={!token.trim()}>
          {t("Log in")}
        </button>
      </form>
    </main>
  );
}
