%% @doc Whether a directory is a virtual environment that the Python of this library can use.
%% @private
-module(py_venv).

-export([check/1]).

%% What it says is read from the file that makes a directory a virtual environment, `pyvenv.cfg'.
-spec check(file:filename_all()) -> ok | {error, iodata()}.
check(Directory) ->
    case file:read_file(filename:join(Directory, "pyvenv.cfg")) of
        {ok, Text} -> check_version(version(Text), code:ensure_loaded(py_nif));
        {error, _} -> {error, "is not a virtual environment: there is no pyvenv.cfg in it"}
    end.

%% `venv' and `virtualenv' write different keys.
-spec version(binary()) -> {ok, binary()} | unknown.
version(Text) ->
    case re:run(Text, "^version(?:_info)?\\s*=\\s*(\\d+\\.\\d+)", [multiline, {capture, [1], binary}]) of
        {match, [Version]} -> {ok, Version};
        nomatch -> unknown
    end.

%% Compiled packages of another version do not load. Why there is no library, its start will say.
-spec check_version({ok, binary()} | unknown, {module, module()} | {error, term()}) -> ok | {error, iodata()}.
check_version({ok, Version}, {module, py_nif}) ->
    case py_nif:version() of
        #{python := Version} ->
            ok;
        #{python := Ours} ->
            {error, ["is an environment of Python ", Version, ", but py_reactor was built with Python ", Ours]}
    end;
check_version(_, _) ->
    ok.
