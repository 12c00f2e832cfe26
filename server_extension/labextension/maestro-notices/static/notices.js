/* Maestro's notices in JupyterLab, and "Save a Copy to My Home" for viewers.
 *
 * A prebuilt extension without a build step: JupyterLab loads this file (package.json, `_build.load`), finds a module
 * federation container in window._JUPYTERLAB[<package name>], calls `init` with the packages that it shares, and asks
 * `get` for the plugin. What is shown comes from the notebook server (/maestro/notices, server_extension/routes.py),
 * which tells by an event of Jupyter's own that there is something new.
 */
(() => {
  "use strict";

  const NAME = "maestro-notices";
  const EVENT = "https://schemas.maestro.invalid/notices/v1";
  // Should an event get lost (a laptop that slept): ask anyway, while somebody looks.
  const ASK_SECONDS = 60;
  // JupyterLab cuts a notification here, in its list too.
  const SHORT = 140;
  const INFO_SECONDS = 30;

  let shared = {};

  /** A package of JupyterLab's own, the one that is in use. */
  async function load(name) {
    const versions = Object.values(shared[name] || {});
    const chosen = versions.find((version) => version.loaded) || versions[0];
    return (await chosen.get())();
  }

  /** The notebook server's side. */
  class Server {
    constructor(services, settings) {
      this.services = services;
      this.settings = settings;
    }

    /** Ask our part of the server. */
    ask(method, path, body) {
      return this.request(method, `maestro/${path}`, body);
    }

    /** Ask the server, signed in as JupyterLab is; the error of a refusal is its sentence. */
    async request(method, path, body) {
      const { ServerConnection } = this.services;
      const init = { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) };
      const answer = await ServerConnection.makeRequest(this.settings.baseUrl + path, init, this.settings);
      if (!answer.ok) {
        const told = await answer.json().catch(() => ({}));
        throw Object.assign(new Error(told.message || `The notebook server answers ${answer.status}.`), {
          status: answer.status,
        });
      }
      return answer.status === 204 ? null : answer.json();
    }
  }

  /** What is shown, kept like what the server says. */
  class Shown {
    constructor(server, apputils) {
      this.server = server;
      this.apputils = apputils;
      this.viewer = false;
      this.byNotice = new Map(); // the notice's id -> JupyterLab's id, and what is shown
      apputils.Notification.manager.changed.connect((_, change) => {
        if (change.type === "removed") {
          this.removed(change.notification.id);
        }
      });
    }

    async refresh() {
      this.show(await this.server.ask("GET", "notices"));
    }

    show(answer) {
      this.viewer = Boolean(answer.viewer);
      const now = new Map(answer.notices.map((notice) => [notice.id, notice]));
      for (const [id, { labId }] of [...this.byNotice]) {
        if (!now.has(id)) {
          this.byNotice.delete(id); // first: it was not the user who removed it
          this.apputils.Notification.dismiss(labId);
        }
      }
      for (const notice of now.values()) {
        this.put(notice);
      }
    }

    put(notice) {
      const { Notification } = this.apputils;
      const text = JSON.stringify(notice);
      const before = this.byNotice.get(notice.id);
      if (before && before.text === text) {
        return;
      }
      const whole = sentence(notice);
      const message = whole.length > SHORT ? `${whole.slice(0, SHORT - 2).replace(/\s+\S*$/, "")} …` : whole;
      const options = { autoClose: notice.level === "info" ? INFO_SECONDS * 1000 : false, actions: [] };
      if (notice.action === "keep") {
        options.actions.push({ label: "Keep it running", displayType: "accent", callback: (event) => this.keep(event) });
      }
      if (message !== whole) {
        options.actions.push({
          label: "Read it all",
          callback: (event) => {
            event.preventDefault(); // it stays until it has been read
            void this.readAll(whole);
          },
        });
      }
      if (notice.level === "info") {
        options.actions.push({ label: "Got it", displayType: "link", callback: () => {} });
      }
      if (before) {
        this.byNotice.set(notice.id, { labId: before.labId, text });
        if (Notification.update({ id: before.labId, message, type: notice.level, ...options })) {
          return;
        }
      }
      this.byNotice.set(notice.id, { labId: Notification.emit(message, notice.level, options), text });
    }

    /** The user has read it: no window shows it again. */
    removed(labId) {
      for (const [id, { labId: mine }] of this.byNotice) {
        if (mine === labId) {
          this.byNotice.delete(id);
          this.server.ask("DELETE", `notices/${encodeURIComponent(id)}`).catch((error) => console.warn(error));
        }
      }
    }

    async keep(event) {
      event.preventDefault(); // the notice goes when the service has said yes
      try {
        this.show(await this.server.ask("POST", "keep", {}));
        this.apputils.Notification.success("The server is kept running.", { autoClose: 5000 });
      } catch (error) {
        this.apputils.Notification.error(error.message, { autoClose: 10000 });
      }
    }

    readAll(whole) {
      const { Dialog, showDialog } = this.apputils;
      return showDialog({ title: "Maestro", body: whole, buttons: [Dialog.okButton()] });
    }
  }

  /** A notice's text, with its moment in the reader's own time. */
  function sentence(notice) {
    if (!notice.until) {
      return notice.message;
    }
    const until = new Date(notice.until);
    const soon = until - Date.now() < 3 * 60 * 1000;
    const time = { hour: "2-digit", minute: "2-digit", ...(soon ? { second: "2-digit" } : {}) };
    const day = until.toDateString() === new Date().toDateString() ? "" : `${until.toLocaleDateString()} `;
    return `${notice.message.replace(/\.$/, "")} (${day}${until.toLocaleTimeString([], time)}).`;
  }

  /** A viewer's way to keep what they changed: what is in the window, with its outputs, in their private home. */
  class CopyHome {
    constructor(app, shown, apputils) {
      this.app = app;
      this.shown = shown;
      this.apputils = apputils;
    }

    /** The document in front, if it cannot be saved where it is. */
    context() {
      const context = this.app.shell.currentWidget && this.app.shell.currentWidget.context;
      return context && context.contentsModel && context.contentsModel.writable === false ? context : null;
    }

    add(palette, menu) {
      this.app.commands.addCommand(CopyHome.COMMAND, {
        label: "Save a Copy to My Home",
        caption: "Save what is in this window into your private home, and go on there",
        isVisible: () => this.shown.viewer,
        isEnabled: () => this.context() !== null,
        execute: () => this.copy(),
      });
      if (palette) {
        palette.addItem({ command: CopyHome.COMMAND, category: "File Operations" });
      }
      if (menu) {
        menu.fileMenu.addGroup([{ command: CopyHome.COMMAND }], 9);
      }
      this.app.commands.commandExecuted.connect((_, { id }) => {
        if (this.shown.viewer && id === "docmanager:save" && this.context()) {
          this.offer();
        }
      });
    }

    offer() {
      this.apputils.Notification.warning("Files of this workspace are read-only for you.", {
        autoClose: 15000,
        actions: [{ label: "Save a copy to my home", displayType: "accent", callback: () => void this.copy() }],
      });
    }

    async copy() {
      const context = this.context();
      if (!context) {
        return;
      }
      const { Notification } = this.apputils;
      try {
        await context.ready;
        const { type, format } = context.contentsModel;
        const content = format === "json" ? context.model.toJSON() : context.model.toString();
        const answer = await this.shown.server.ask("POST", "copy-home", { path: context.path, type, format, content });
        await this.goOn(answer.path);
        Notification.success(`Saved as ${answer.path}.`, { autoClose: 5000 });
      } catch (error) {
        Notification.error(error.message, { autoClose: 15000 });
      }
    }

    /** Open the copy in the place of the document in front, with its kernel: the variables are still there. */
    async goOn(path) {
      const widget = this.app.shell.currentWidget;
      const session = widget.context.sessionContext.session;
      const id = session && session.id;
      const kernel = session && session.kernel && { id: session.kernel.id };
      widget.dispose(); // without a question: all of it is in the copy
      if (id) {
        await this.shown.server.request("PATCH", `api/sessions/${id}`, { path, name: path.split("/").pop() });
      }
      await this.app.commands.execute("docmanager:open", { path, ...(kernel ? { kernel } : {}) });
    }
  }
  CopyHome.COMMAND = "maestro:copy-home";

  /** The plugin; `packages` are JupyterLab's own. */
  function plugin(packages) {
    const { apputils, mainmenu, services } = packages;
    return {
      id: `${NAME}:plugin`,
      description: "Shows what Maestro tells the user of a notebook server.",
      autoStart: true,
      optional: [apputils.ICommandPalette, mainmenu.IMainMenu],
      activate: (app, palette, menu) => {
        const server = new Server(services, app.serviceManager.serverSettings);
        const shown = new Shown(server, apputils);
        new CopyHome(app, shown, apputils).add(palette, menu);
        // Not awaited here: JupyterLab restores nothing before its plugins are active.
        void app.restored.then(() => watch(app, shown));
      },
    };
  }

  /** Show what there is, and whatever comes. */
  async function watch(app, shown) {
    try {
      await shown.refresh();
    } catch (error) {
      if (error.status === 404) {
        return; // not a server of Maestro's
      }
      console.warn(error);
    }
    const again = () => shown.refresh().catch((error) => console.warn(error));
    app.serviceManager.events.stream.connect((_, event) => {
      if (event.schema_id === EVENT) {
        void again();
      }
    });
    setInterval(() => document.visibilityState === "visible" && void again(), ASK_SECONDS * 1000);
  }

  const containers = (window._JUPYTERLAB = window._JUPYTERLAB || {});
  containers[NAME] = {
    init: (scope) => {
      shared = scope;
    },
    get: async (module) => {
      if (module !== "./extension") {
        throw new Error(`${NAME} has no module ${module}`);
      }
      const names = ["apputils", "mainmenu", "services"];
      const loaded = await Promise.all(names.map((name) => load(`@jupyterlab/${name}`)));
      const packages = Object.fromEntries(names.map((name, index) => [name, loaded[index]]));
      return () => ({ __esModule: true, default: plugin(packages) });
    },
  };
})();
