import "uplot/dist/uPlot.min.css";
import "./style/base.css";
import "./style/shell.css";
import "./style/parts.css";
import "./style/pages.css";
import { createRoot } from "react-dom/client";
import { start } from "./api/session";
import { Console } from "./console";
import { applyTheme } from "./settings";

applyTheme();
void start();
const root = document.getElementById("root");
if (root) createRoot(root).render(<Console />);
