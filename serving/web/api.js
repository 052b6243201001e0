// The API as the console uses it: public routes only.

const KEY = "recsys-api-key";

/** An answer other than success; `status` 0: no answer. `retryS`: when to retry; 0: not given. */
export class ApiProblem extends Error {
  constructor(status, detail, requestId = "", retryS = 0) {
    super(detail);
    this.status = status;
    this.requestId = requestId;
    this.retryS = retryS;
  }
}

export const saveKey = (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));

/** What names the caller. */
export function keyHeaders() {
  const key = sessionStorage.getItem(KEY);
  return key ? { "x-api-key": key } : {};
}

async function call(method, path, body) {
  const headers = { ...(body && { "content-type": "application/json" }), ...keyHeaders() };
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new ApiProblem(0, "The API does not answer. Is `recsys serve` running?");
  }
  const content = response.status === 204 ? null : await response.json().catch(() => null);
  // a 503 of readyz still says what is missing
  if (!response.ok && path !== "/readyz") {
    throw new ApiProblem(response.status, content?.detail ?? response.statusText, content?.request_id, Number(response.headers.get("retry-after")));
  }
  return content;
}

export const recommend = (user, k, edge) =>
  call("POST", "/v1/recommendations?explain=true", { user_id: user, k, edge, context: { page: "demo" } });
export const sendEvent = (event) => call("POST", "/v1/events", event);
export const readUser = (user) => call("GET", `/v1/users/${encodeURIComponent(user)}`);
export const readSystem = () => call("GET", "/v1/system");
export const readModels = () => call("GET", "/v1/models");
export const readBundles = () => call("GET", "/v1/bundles");
export const readRelease = () => call("GET", "/v1/release");
export const readExperiments = () => call("GET", "/v1/experiments");
let outcomes = Promise.resolve();
/** One after another: the API reads one experiment at a time, and refuses concurrent requests. */
export const readOutcomes = (name) => {
  const found = outcomes.then(() => call("GET", `/v1/experiments/${encodeURIComponent(name)}/outcomes`));
  outcomes = found.catch(() => {});
  return found;
};
export const readHealth = () => call("GET", "/readyz");
export const activate = (version) => call("POST", `/v1/bundles/${encodeURIComponent(version)}/activate`);
