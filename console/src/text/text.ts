// Says things in the language that was chosen. English is the key; words for machines have a key of their own.
import { currentLanguage } from "../settings";
import { chinese } from "./chinese";

/** Words by key: English, then Chinese. */
const words = {
  "phase.waiting": ["waiting", "等待"],
  "phase.starting": ["starting", "启动中"],
  "phase.running": ["running", "运行中"],
  "phase.ready": ["ready", "就绪"],
  "phase.unready": ["not ready", "未就绪"],
  "phase.backing_off": ["backing off", "退避中"],
  "phase.draining": ["draining", "排空中"],
  "phase.succeeded": ["succeeded", "已完成"],
  "phase.failed": ["failed", "失败"],
  "phase.gone": ["gone", "已消失"],
  "phase.unknown": ["unknown", "未知"],
  "shape.module": ["module", "模块"],
  "shape.process": ["process", "进程"],
  "shape.external": ["external", "外部"],
  "shape.unknown": ["unknown", "未知"],
  "tab.overview": ["Overview", "概览"],
  "tab.instances": ["Instances", "实例"],
  "tab.revisions": ["Revisions", "版本"],
  "tab.routes": ["Routes", "路由"],
  "tab.logs": ["Logs", "日志"],
  "tab.configuration": ["Configuration", "配置"],
  "action.create": ["created", "创建"],
  "action.update": ["changed", "更改"],
  "action.delete": ["removed", "删除"],
  "verdict.created": ["new", "新建"],
  "verdict.configured": ["changes", "更改"],
  "verdict.unchanged": ["stays", "不变"],
  "verdict.pruned": ["goes", "移除"],
  "station.listen": ["listen", "监听"],
  "station.listen.about": ["The connection was accepted; before the clock began", "接受连接；计时开始之前"],
  "station.codec": ["codec", "编解码"],
  "station.codec.about": ["The head was read; before the clock began", "读取请求头；计时开始之前"],
  "station.route": ["route", "路由"],
  "station.route.about": ["The rule was found", "找到匹配的规则"],
  "station.filter": ["filter", "过滤"],
  "station.filter.about": ["Checks and edits", "检查与改写"],
  "station.attempt": ["attempt", "尝试"],
  "station.attempt.about": ["Choosing an endpoint, with the tries before the last", "选择端点，包括最后一次之前的尝试"],
  "station.endpoint": ["endpoint", "端点"],
  "station.endpoint.about": ["A connection or instance, then waiting for its answer", "获得连接或实例，然后等待应答"],
  "station.body": ["body", "正文"],
  "station.body.about": ["Until the last byte was sent", "直到发送最后一个字节"],
  "hindrance.once": ["It ran once, and is not run again.", "只运行一次，不会再次运行。"],
  "hindrance.ports": ["Its ports are fixed: it cannot run beside its successor.", "端口固定，无法与其后继版本同时运行。"],
  "hindrance.gone": ["It is not kept any longer; calls of its share are refused.", "该版本已不再保留；分给它的调用会被拒绝。"],
} as const satisfies Record<string, readonly [string, string]>;

export type Key = keyof typeof chinese | keyof typeof words;

const isWord = (key: Key): key is keyof typeof words => key in words;

/** The text of a key, with values in the places of `{names}`. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  const isChinese = currentLanguage() === "zh";
  const text = isWord(key) ? words[key][isChinese ? 1 : 0] : isChinese ? chinese[key] : key;
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => (name in values ? String(values[name]) : whole));
}
