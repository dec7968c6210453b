import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The same sources make the same bytes: names carry hashes of their content, and nothing carries a time.
export default defineConfig({
  plugins: [react()],
  build: {
    target: "es2023",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    chunkSizeWarningLimit: 600,
  },
  server: { proxy: { "/v1": "http://127.0.0.1:7070", "/debug": "http://127.0.0.1:7070" } },
});
