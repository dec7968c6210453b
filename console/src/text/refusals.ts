// What the server refuses, in the reader's language: by the code of the refusal, whose own text is English and stays beside it.
import type { Refused } from "../api/client";
import { currentLanguage } from "../settings";

const chinese: Record<string, string> = {
  artifact: "制品无法使用",
  bad_request: "请求本身有误",
  base: "节点拒绝了请求，或没有应答",
  component: "组件拒绝了请求",
  conflict: "与当前状态冲突：它已被更改，或仍在使用",
  foreign_origin: "拒绝来自其他网站页面的请求",
  gone: "服务器没有应答",
  internal: "服务器内部出错，或其机器出了问题",
  invalid_documents: "文档有误，没有写入任何内容",
  method: "此路径不接受该方法",
  no_base: "没有已连接的节点",
  not_a_server: "只有 `dodai server` 能做到",
  not_confirmed: "并非所有节点都确认了上一步",
  not_found: "没有找到",
  not_restarted: "无法重启",
  not_rolled_back: "无法回退",
  publish: "消息未能发布",
  rotation: "轮换根证书的这一步现在不可行",
  state: "状态存储无法给出结果",
  store: "服务器的存储暂不可用",
  too_large: "请求正文过大",
  too_many_streams: "实时连接过多",
  unauthorized: "需要有效的令牌或会话",
  unknown_host: "Host 头不是此服务器的名字",
  unsupported: "该驱动做不到",
  unreadable: "存储中的文档无法读取",
};

/** The refusal in the language that was chosen; empty where that is English or nothing is known of its code. */
export function saidOf(error: Refused): string {
  return currentLanguage() === "zh" ? (chinese[error.refusal.code] ?? "") : "";
}

/** The codes that are said. */
export const saidCodes = Object.keys(chinese);
