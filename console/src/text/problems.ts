// What is wrong with documents, in the reader's language: a problem by its code, a condition and an event by its reason.
// The server's own words are English and stay beside it: they name the place and the remedy.
import { currentLanguage } from "../settings";

const problems: Record<string, string> = {
  syntax: "不是合法的 YAML",
  too_large: "文件或文档过大，或嵌套过深",
  duplicate_key: "同一个键出现了两次",
  unknown_key: "没有这个键",
  missing_key: "缺少必需的键",
  unknown_kind: "未知的 kind 或 apiVersion",
  wrong_type: "值的类型不对",
  invalid_value: "值不在允许的范围内",
  conflict: "文档中有互相冲突的部分",
  duplicate_document: "有两个文档的种类、命名空间和名称相同",
  unknown_reference: "引用的对象不存在",
  port_clash: "两处使用同一个端口",
  dependency_cycle: "应用之间循环依赖",
  read_only: "这一部分只能由服务器写入",
  no_effect: "这里的内容不起作用",
  not_offered: "此功能尚未提供",
};

const reasons: Record<string, string> = {
  Accepted: "已接受",
  ArtifactMissing: "制品尚未上传",
  Away: "节点离线",
  BackendNotFound: "后端不存在",
  ComponentNotFound: "组件不存在",
  ChangeRefused: "更改被拒绝，仍按原设置服务",
  Connected: "已连接",
  Empty: "命名空间为空",
  External: "在别处运行",
  Failed: "运行失败",
  InUse: "使用中",
  InitFailed: "组件初始化失败",
  InstancesMissing: "就绪的实例不足",
  InstancesReady: "实例已就绪",
  Kept: "保留的旧版本",
  Latest: "最新版本",
  ListenersNotOpen: "有监听器没有打开",
  NameTaken: "名称已被占用",
  Named: "由流量设置指定的版本",
  NeverSeen: "节点从未连接",
  NoApps: "没有对应的应用",
  NoBase: "没有可用的节点",
  NotEverywhere: "并非所有节点都在监听",
  NotUsed: "尚未被使用",
  Overridden: "被另一个文档覆盖",
  Pending: "等待中",
  Programmed: "已生效",
  ProgressDeadlineExceeded: "新版本未能按时就绪",
  Progressing: "变更进行中",
  Ready: "就绪",
  ResolvedRefs: "引用均有效",
  RevisionNotFound: "流量设置指定的版本不存在",
  Running: "运行中",
  SnapshotRefused: "节点拒绝了最新快照",
  Starting: "启动中",
  Succeeded: "已完成",
  TargetNotFound: "目标不存在",
};

const said = (words: Record<string, string>, code: string | undefined) => (currentLanguage() === "zh" ? (words[code ?? ""] ?? "") : "");

/** What the code of a problem means; empty in English. */
export const saidOfProblem = (code: string | undefined) => said(problems, code);

/** What the reason of a condition means; empty in English. */
export const saidOfReason = (reason: string | undefined) => said(reasons, reason);

/** A text of the server with what its code means before it. */
export const beside = (saying: string, text: string) => (saying && text ? `${saying}：${text}` : saying || text);

/** What is said, for the test that compares it with what the server has. */
export const saidProblems = Object.keys(problems);
export const saidReasons = Object.keys(reasons);
