// Two clients of Fly Machines, neither of them ours, run machines of an app: `node clients.mjs URL APP TOKEN`.
//
//   fly-admin                 Supabase's, written by hand, in use for their databases on Fly
//   @distilled.cloud/fly-io   made from Fly's OpenAPI document, with errors as they were recorded from Fly
//
// Prints "NAME: passed" for each, and fails with the first that does not hold.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, app, token] = process.argv.slice(2);
const modules = process.env.NODE_MODULES;
const require = createRequire(`${modules}/here.js`);
// What is a module of its own cannot be required.
const load = async (name, file) => import(pathToFileURL(`${modules}/${name}/${file}`));
const guest = { cpu_kind: "performance", cpus: 2, memory_mb: 4096 };
const config = (more = {}) => ({
  image: "registry.fly.io/clips:v1",
  guest,
  env: { A: "b" },
  restart: { policy: "no" },
  stop_config: { signal: "SIGTERM", timeout: "30s" },
  ...more,
});

async function flyAdmin() {
  // Its createClient hands no address on.
  const { default: Client } = require("fly-admin/dist/client.js");
  const fly = new Client(token, { apiUrl: url }).Machine;
  const at = (id) => ({ app_name: app, machine_id: id });
  const refused = (what, status, words) =>
    assert.rejects(what, (error) => {
      assert.match(error.message, new RegExp(`^${status}: `));
      assert.match(error.message, words);
      return true;
    });
  assert.deepEqual(await fly.listMachines(app), []);
  const made = await fly.createMachine({
    app_name: app,
    name: "admin-1",
    region: "ams",
    config: config({ metadata: { pool: "admin" } }),
  });
  assert.equal(made.state, "created");
  assert.equal(made.region, "ams");
  assert.deepEqual(made.config.guest, guest);
  assert.deepEqual([made.image_ref.registry, made.image_ref.repository, made.image_ref.tag], ["registry.fly.io", "clips", "v1"]);
  const duplicate = fly.createMachine({ app_name: app, name: "admin-1", config: config() });
  await refused(duplicate, 409, new RegExp(`machine ID ${made.id} already exists with name`));
  const id = made.id;
  const started = await fly.waitMachine({ ...at(id), state: "started", instance_id: made.instance_id, timeout: "60s" });
  assert.equal(started.ok, true);
  assert.equal((await fly.getMachine(at(id))).state, "started");
  assert.deepEqual((await fly.listMachines({ app_name: app, region: "ams" })).map((m) => m.id), [id]);
  const lease = await fly.acquireLease({ ...at(id), ttl: 60, description: "test" });
  assert.equal(lease.status, "success");
  assert.ok(lease.data.nonce && lease.data.expires_at > Date.now() / 1000, JSON.stringify(lease));
  assert.equal((await fly.getLease(at(id))).data.nonce, lease.data.nonce);
  await refused(fly.stopMachine(at(id)), 409, /lease currently held by/);
  // It has no call to give a lease back.
  const released = await fetch(`${url}/v1/apps/${app}/machines/${id}/lease`, {
    method: "DELETE",
    headers: { authorization: `Bearer ${token}`, "fly-machine-lease-nonce": lease.data.nonce },
  });
  assert.equal(released.status, 200);
  const updated = await fly.updateMachine({ ...at(id), config: config({ image: "registry.fly.io/clips:v2" }) });
  assert.equal(updated.id, id);
  assert.notEqual(updated.instance_id, made.instance_id);
  await fly.waitMachine({ ...at(id), state: "started", instance_id: updated.instance_id, timeout: "60" });
  const versions = await fly.listVersions(at(id));
  assert.deepEqual(versions.map((v) => v.user_config.image), ["registry.fly.io/clips:v2", "registry.fly.io/clips:v1"]);
  await fly.stopMachine({ ...at(id), signal: "SIGKILL", timeout: "1s" });
  await fly.waitMachine({ ...at(id), state: "stopped", instance_id: updated.instance_id });
  const events = await fly.listEvents(at(id));
  const exit = events.find((event) => event.type === "exit");
  assert.equal(exit.status, "stopped");
  assert.equal(exit.request.exit_event.requested_stop, true);
  assert.equal(exit.source, "flyd");
  const again = await fly.startMachine(at(id));
  assert.equal(again.previous_state, "stopped");
  await fly.waitMachine({ ...at(id), state: "started" });
  await refused(fly.deleteMachine(at(id)), 412, /^412: .*failed_precondition: unable to destroy machine/);
  await fly.restartMachine({ ...at(id) });
  await fly.waitMachine({ ...at(id), state: "started" });
  await fly.deleteMachine({ ...at(id), force: true });
  await fly.waitMachine({ ...at(id), state: "destroyed" });
  await refused(fly.startMachine(at("0123456789abcd")), 404, /machine/);
  for (const [wrong, words] of [
    [{ config: config({ guest: { ...guest, cpus: 3 } }) }, /invalid config.guest.cpus/],
    [{ config: config({ guest: { ...guest, memory_mb: 512 } }) }, /minimum required 4096 MiB/],
    [{ config: config(), region: "xyz" }, /invalid region/],
  ]) {
    await refused(fly.createMachine({ app_name: app, ...wrong }), 400, words);
  }
  console.log("fly-admin: passed");
}

async function distilled() {
  const lib = (file) => load("@distilled.cloud/fly-io", `lib/${file}.js`);
  const fly = await lib("services/machines");
  const { credentials } = await lib("credentials");
  const Retry = await lib("retry");
  const Effect = await load("effect", "dist/Effect.js");
  const Layer = await load("effect", "dist/Layer.js");
  const Http = await load("effect", "dist/unstable/http/FetchHttpClient.js");
  const layer = Layer.mergeAll(credentials({ apiKey: token, apiBaseUrl: url }), Http.layer);
  const run = (effect) => Effect.runPromise(effect.pipe(Retry.none, Effect.provide(layer)));
  // The error as the client's own type, which it tells by status and by Fly's words.
  const refused = async (effect, tag, words) => {
    const error = await run(Effect.flip(effect));
    assert.equal(error._tag, tag, JSON.stringify(error));
    assert.match(error.message, words);
  };
  const at = (id) => ({ app_name: app, machine_id: id });
  const made = await run(
    fly.createMachine({ app_name: app, name: "distilled-1", region: "iad,fra", config: config({ rootfs: { size_gb: 20 } }) }),
  );
  assert.equal(made.host_status, "ok");
  assert.equal(made.config.rootfs.size_gb, 20);
  await refused(
    fly.createMachine({ app_name: app, name: "distilled-1", config: config() }),
    "Conflict",
    /unique machine name violation/,
  );
  const id = made.id;
  await refused(fly.startMachine(at(id)), "MachineStartFromCreatedState", /unable to start machine from current state: 'created'/);
  const settled = await run(fly.waitMachine({ ...at(id), state: "settled", timeout: 60 }));
  assert.deepEqual([settled.ok, settled.state], [true, "started"]);
  assert.equal(settled.version, made.instance_id);
  await run(fly.upsertMachineMetadata({ ...at(id), key: "pool", value: "distilled" }));
  await run(fly.patchMachineMetadata({ ...at(id), metadata: { more: "1" }, machine_version: made.instance_id }));
  assert.deepEqual(await run(fly.getMachineMetadata(at(id))), { pool: "distilled", more: "1" });
  await run(fly.deleteMachineMetadata({ ...at(id), key: "more" }));
  assert.equal((await run(fly.getMachineMetadataKey({ ...at(id), key: "pool" }))).value, "distilled");
  const stopped = run(fly.waitMachine({ ...at(id), state: "stopped", from_event_id: settled.event_id }));
  await run(fly.stopMachine({ ...at(id), signal: "SIGTERM", timeout: "10s" }));
  assert.equal((await stopped).state, "stopped");
  const list = await run(fly.listMachines({ app_name: app, state: "stopped,started", include_deleted: true }));
  assert.deepEqual(list.map((machine) => [machine.id, machine.state]), [[id, "stopped"]]);
  const events = await run(fly.listMachineEvents({ ...at(id), limit: 2 }));
  assert.equal(events.length, 2);
  assert.ok(events[0].id > events[1].id);
  const updated = await run(
    fly.updateMachine({ ...at(id), skip_launch: true, current_version: made.instance_id, config: config() }),
  );
  assert.notEqual(updated.instance_id, made.instance_id);
  await refused(
    fly.updateMachine({ ...at(id), current_version: made.instance_id, config: config() }),
    "Conflict",
    /version/,
  );
  await run(fly.waitMachine({ ...at(id), state: "stopped", version: updated.instance_id }));
  await refused(
    fly.createMachine({ app_name: app, config: config({ guest: { ...guest, cpus: 3 } }) }),
    "BadRequest",
    /invalid config.guest.cpus/,
  );
  await refused(fly.stopMachine(at("0123456789abcd")), "NotFound", /machine/);
  await run(fly.deleteMachine({ ...at(id), force: true }));
  await run(fly.waitMachine({ ...at(id), state: "destroyed" }));
  console.log("distilled: passed");
}

await flyAdmin();
await distilled();
